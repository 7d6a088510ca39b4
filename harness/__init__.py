"""midemit: fault-injection test harness for Socket.IO message delivery.

Scenario files need three names: `scenario` declares what a schedule claims and what must break without
protection, `System` is what the schedule acts on, `Sender` is what it posts with.
"""
