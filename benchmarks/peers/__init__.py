"""What Atelier is compared with. Each peer has a settings file that cites its own advice, and runs beside us.

The processes of procrastinate and Celery run in an environment of their own, build/peers.
"""
