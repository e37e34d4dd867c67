#!/bin/sh
# A container has no init: packages must not start their daemons.
exit 101
