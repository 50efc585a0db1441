#!/bin/sh
# Make sure that an OpenGL library for off-screen drawing is there: install it as root, say how otherwise.
set -eu
python=${1:-python3}
backend=osmesa package=libosmesa6 library=OSMesa
if [ -n "${MUJOCO_GL:-}" ]; then
    backend=$MUJOCO_GL
elif [ -e /dev/nvidiactl ]; then
    backend=egl
fi
if [ "$backend" = egl ]; then package=libegl1 library=EGL; fi
case $backend in egl | osmesa) ;; *) exit 0 ;; esac # glfw and others: the user's own choice

present() {
    "$python" - "lib$library" <<'END'
import ctypes
import sys

for suffix in (".so.8", ".so.6", ".so.1", ".so.0", ".so"):
    try:
        ctypes.CDLL(sys.argv[1] + suffix)
    except OSError:
        continue
    sys.exit(0)
sys.exit(1)
END
}

present && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing $package"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null || true
fi
present && exit 0
echo "error: no OpenGL library for MUJOCO_GL=$backend" >&2
echo "  -> Debian, Ubuntu: apt-get install $package (as root); others: the package that holds lib$library" >&2
exit 4
