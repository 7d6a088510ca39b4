"""Makes scenario files into pytest items; see `harness.plugin`."""

pytest_plugins = ["harness.plugin"]
