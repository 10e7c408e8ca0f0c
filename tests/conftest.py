"""The fixtures of all tests are those that packages built on this one use."""

pytest_plugins = ["mlip_autopipec.testing.fixtures"]
