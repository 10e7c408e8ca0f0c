"""The fixtures of all tests are those that packages built on this one use."""

pytest_plugins = ["mlip_autopipec.testing.fixtures"]


@pytest.fixture(scope="session")
def run_vasp_worker() -> Callable[[Path, str], dict[str, Any]]:
    """A function that runs a part of ``vasp_worker.py`` in a folder, with the stand-in for VASP in its environment."""
    from mlip_autopipec.testing.vasp import vasp_stand_in_environment
    from mlip_autopipec.testing.vasp.potcars import make_believe_potcar

    def run(folder: Path, part: str) -> dict[str, Any]:
        environment = vasp_stand_in_environment(folder / "potcars", elements=["Cu", "Au"])
        other = Path(environment["PMG_VASP_PSP_DIR"]) / "POT_PAW_PBE_64" / "POTCAR.Cu"
        other.write_text(make_believe_potcar("Cu", "Cu"))
        worker = Path(__file__).with_name("vasp_worker.py")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(worker), part],
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((folder / "results.json").read_text())  # type: ignore[no-any-return]

    return run
