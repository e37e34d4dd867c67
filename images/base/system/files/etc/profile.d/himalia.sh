# /etc/profile sets PATH anew in every login shell; this brings back what the container was started with.
if [ -n "${HIMALIA_PATH:-}" ]; then
    PATH=$HIMALIA_PATH
    export PATH
fi
if [ -n "${HIMALIA_PYTHONPATH:-}" ]; then
    PYTHONPATH=$HIMALIA_PYTHONPATH
    export PYTHONPATH
fi
if [ -n "${HIMALIA_LD_LIBRARY_PATH:-}" ]; then
    LD_LIBRARY_PATH=$HIMALIA_LD_LIBRARY_PATH
    export LD_LIBRARY_PATH
fi
