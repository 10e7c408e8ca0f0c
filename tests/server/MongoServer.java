import de.bwaldvogel.mongo.backend.h2.H2Backend;

/** Serves one file of data on one port of loopback, until it is told to terminate. */
class MongoServer {
    public static void main(String[] arguments) {
        var server = new de.bwaldvogel.mongo.MongoServer(new H2Backend(arguments[1]));
        // writes what is still in memory, then leaves
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
    }
}
