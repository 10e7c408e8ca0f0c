import de.bwaldvogel.mongo.backend.aggregation.Aggregation;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import io.netty.channel.Channel;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.h2.mvstore.MVStore;

/** Serves one file of data on one port of loopback, until it is told to terminate. */
class MongoServer {
    public static void main(String[] arguments) {
        var server = new de.bwaldvogel.mongo.MongoServer(new Backend(arguments[1]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
    }
}

/**
 * The H2 backend of mongo-java-server with what MongoDB does and it does not:
 *
 * what was acknowledged outlives SIGKILL, and a kill never leaves half of a command behind;
 * one client never sees a document that another is changing;
 * updates by an aggregation pipeline, without upsert;
 * the stage $set, $lookup with localField, foreignField and a pipeline, $project of fields of documents in an array.
 */
class Backend extends H2Backend {
    private static final int FAILED_TO_PARSE = 9;

    Backend(String file) {
        super(open(file));
    }

    private static MVStore open(String file) {
        var store = new MVStore.Builder().fileName(file).autoCommitDisabled().open();
        store.setRetentionTime(0); // ms until the space of what was overwritten is used again
        return store;
    }

    /** One command at a time, written to the file before it is answered. */
    @Override
    public synchronized Document handleCommand(Channel channel, String database, String command, Document query) {
        try {
            var response = super.handleCommand(channel, database, command, translate(database, command, query));
            if (response.get("cursor") instanceof Document cursor && command.equals("aggregate")) {
                cursor.put("firstBatch", finish(database, query, (List<?>) cursor.get("firstBatch")));
            }
            return response.cloneDeeply();
        } finally {
            if (getMvStore().hasUnsavedChanges()) {
                commit();
            }
        }
    }

    private Document translate(String database, String command, Document query) {
        var translated = query.clone();
        switch (command.toLowerCase()) {
            case "aggregate" -> {
                var pipeline = known(query.get("pipeline"));
                translated.put("pipeline", pipeline.subList(0, nextProjection(pipeline)));
            }
            case "update" -> translated.put("updates", replacements(database, query));
            case "findandmodify" -> {
                if (query.get("update") instanceof List<?> pipeline) {
                    translated.put("update", new Document()); // of nothing, should nothing match
                    for (Document old : match(database, query, query.get(command), query.get("query"), 1)) {
                        translated.put("query", new Document("_id", old.get("_id")));
                        translated.put("update", apply(database, pipeline, old));
                    }
                }
            }
            default -> { }
        }
        return translated;
    }

    /** Runs the stages of an aggregation from the first projection on that translate left away. */
    private List<Document> finish(String database, Document query, List<?> found) {
        var documents = found.stream().map(Document.class::cast).toList();
        var rest = known(query.get("pipeline"));
        rest = rest.subList(nextProjection(rest), rest.size());
        while (!rest.isEmpty()) {
            var wanted = (Document) rest.get(0).get("$project");
            var fields = nested(new Document("_id", 1).appendAll(wanted));
            documents = documents.stream().map(one -> (Document) included(one, fields)).toList();
            rest = rest.subList(1, rest.size());
            int next = nextProjection(rest);
            documents = run(database, rest.subList(0, next), documents);
            rest = rest.subList(next, rest.size());
        }
        return documents;
    }

    /** Where a pipeline asks for fields of fields, which mongo-java-server mixes up where they stand in arrays. */
    private static int nextProjection(List<Document> pipeline) {
        for (int i = 0; i < pipeline.size(); i++) {
            if (pipeline.get(i).get("$project") instanceof Document fields
                && fields.keySet().stream().anyMatch(name -> name.contains("."))
                && fields.keySet().stream().allMatch(name -> name.equals("_id") || isYes(fields.get(name)))) {
                return i;
            }
        }
        return pipeline.size();
    }

    private static boolean isYes(Object value) {
        return Boolean.TRUE.equals(value) || value instanceof Number number && number.doubleValue() != 0;
    }

    private static Object included(Object value, Document wanted) {
        if (value instanceof List<?> list) {
            return list.stream().filter(one -> one instanceof Document || one instanceof List)
                .map(one -> included(one, wanted)).toList();
        }
        var result = new Document();
        for (Map.Entry<String, Object> field : wanted.entrySet()) {
            Object inside = ((Document) value).get(field.getKey());
            if (field.getValue() instanceof Document fields) {
                if (inside instanceof Document || inside instanceof List) {
                    result.put(field.getKey(), included(inside, fields));
                }
            } else if (isYes(field.getValue()) && ((Document) value).containsKey(field.getKey())) {
                result.put(field.getKey(), inside);
            }
        }
        return result;
    }

    /** Updates by a pipeline become replacements of the documents they match. */
    private List<Document> replacements(String database, Document query) {
        var translated = new ArrayList<Document>();
        for (Object one : (List<?>) query.get("updates")) {
            var update = (Document) one;
            if (!(update.get("u") instanceof List<?> pipeline)) {
                translated.add(update);
                continue;
            }
            if (((List<?>) query.get("updates")).size() > 1) {
                throw new MongoServerError(FAILED_TO_PARSE, "an update by a pipeline has to be alone in its command");
            }
            int limit = Boolean.TRUE.equals(update.get("multi")) ? 0 : 1;
            for (Document old : match(database, update, query.get("update"), update.get("q"), limit)) {
                var same = new Document("_id", old.get("_id"));
                translated.add(new Document("q", same).append("u", apply(database, pipeline, old)));
            }
        }
        return translated;
    }

    private List<Document> match(String database, Document options, Object collection, Object filter, int limit) {
        if (Boolean.TRUE.equals(options.get("upsert"))) {
            throw new MongoServerError(FAILED_TO_PARSE, "upsert by a pipeline is not implemented");
        }
        var documents = resolveDatabase(database).resolveCollection((String) collection, false);
        var found = new ArrayList<Document>();
        if (documents != null) {
            var selector = new Document("$query", filter == null ? new Document() : filter);
            selector.append("$orderby", options.get("sort"));
            documents.handleQuery(selector, 0, limit).forEach(found::add);
        }
        return found;
    }

    private Document apply(String database, List<?> pipeline, Document old) {
        return run(database, known(pipeline), List.of(old.cloneDeeply())).get(0);
    }

    private List<Document> run(String database, List<Document> pipeline, List<Document> documents) {
        return Aggregation.fromPipeline(pipeline, this::resolveDatabase, resolveDatabase(database), null, oplog)
            .runStages(documents.stream());
    }

    /** The same pipeline in stages that mongo-java-server knows. */
    private static List<Document> known(Object pipeline) {
        var stages = new ArrayList<Document>();
        for (Object stage : (List<?>) pipeline) {
            var translated = new Document();
            for (Map.Entry<String, Object> entry : ((Document) stage).entrySet()) {
                switch (entry.getKey()) {
                    case "$set", "$addFields" -> translated.put("$addFields", nested((Document) entry.getValue()));
                    case "$lookup" -> translated.put("$lookup", lookup((Document) entry.getValue()));
                    default -> translated.put(entry.getKey(), entry.getValue());
                }
            }
            stages.add(translated);
        }
        return stages;
    }

    /** {"a.b": 1} means {"a": {"b": 1}}. */
    private static Document nested(Document fields) {
        var result = new Document();
        for (Map.Entry<String, Object> entry : fields.entrySet()) {
            String[] path = entry.getKey().split("\\.");
            var parent = result;
            for (int i = 0; i < path.length - 1; i++) {
                parent = (Document) parent.computeIfAbsent(path[i], name -> new Document());
            }
            parent.put(path[path.length - 1], entry.getValue());
        }
        return result;
    }

    private static Document lookup(Document lookup) {
        if (!lookup.containsKey("pipeline")) {
            return lookup;
        }
        var pipeline = known(lookup.get("pipeline"));
        var let = new Document();
        if (lookup.get("let") instanceof Document variables) {
            let.putAll(variables);
        }
        if (lookup.get("foreignField") instanceof String foreign) {
            String local = "$" + lookup.get("localField");
            let.put("local", new Document("$cond", List.of(new Document("$isArray", local), local, List.of(local))));
            var in = new Document("$in", List.of("$" + foreign, "$$local"));
            pipeline.add(0, new Document("$match", new Document("$expr", in)));
        }
        return new Document("from", lookup.get("from")).append("as", lookup.get("as")).append("let", let)
            .append("pipeline", pipeline);
    }
}
