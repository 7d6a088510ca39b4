"""midemit: fault-injection test harness for Socket.IO message delivery.

Scenario files need two names: `harness.scenario.scenario` declares a schedule and what must break without
protection, `harness.system.System` is what the schedule acts on. Nothing is imported here: the servers in
`harness.targets` are started through this package and have to start fast.
"""
