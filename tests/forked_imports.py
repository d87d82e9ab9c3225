"""What the process that servers are forked from imports; nothing here may start a thread or read a setting."""

import service.cli.serve
import service.server

LOADED = (service.cli.serve, service.server)
