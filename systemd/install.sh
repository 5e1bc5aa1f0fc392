#!/bin/sh
# install.sh UV PYTHON REQUIREMENTS: install or upgrade the service, as root, from a checkout (make install calls it).
# Configuration that exists is kept; nothing is started or restarted.
set -eu
uv=$1 python=$2 requirements=$3
prefix=/opt/ocr-daemon
venv=$prefix/.venv

[ -e "$requirements" ] || { echo "there is no $requirements: ENGINE is default or vllm" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "make install writes to $prefix and /usr/local: run it as root" >&2; exit 1; }
interpreter=$($python -c 'import os, sys; print(os.path.realpath(sys.executable))')
case $interpreter in
/root/* | /home/*) echo "$interpreter: the service cannot see it; use make install PYTHON=/usr/bin/python3" >&2; exit 1 ;;
esac
if [ -d /run/systemd/system ] && systemctl --quiet is-active ocr-daemon; then
  echo "ocr-daemon runs and would mix old and new code: systemctl stop ocr-daemon (it drains), install, start" >&2
  exit 1
fi

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
umask 022

# The new environment is made beside the old one and is complete before it takes its place; its scripts must carry
# the final path, so the old one moves aside first and comes back if anything fails.
mkdir -p $prefix
rm -rf $prefix/.venv.old
[ ! -e $venv ] || mv $venv $prefix/.venv.old
undo() {
  rm -rf "$wheels" $venv
  [ ! -e $prefix/.venv.old ] || mv $prefix/.venv.old $venv
}
trap undo EXIT
trap 'exit 1' INT TERM
"$uv" build --quiet --wheel --no-python-downloads --python "$python" --require-hashes \
  --build-constraints requirements/build.txt --out-dir "$wheels" .
"$uv" venv --quiet --no-python-downloads --python "$python" $venv
"$uv" pip sync --quiet --link-mode copy --compile-bytecode --python $venv/bin/python --require-hashes \
  "$requirements"
"$uv" pip install --quiet --link-mode copy --compile-bytecode --python $venv/bin/python --no-deps "$wheels"/*.whl

install -D -m 644 systemd/ocr-daemon.service /usr/local/lib/systemd/system/ocr-daemon.service
install -D -m 644 systemd/ocr-daemon.sysusers /usr/local/lib/sysusers.d/ocr-daemon.conf
install -D -m 644 systemd/ocr-daemon.tmpfiles /usr/local/lib/tmpfiles.d/ocr-daemon.conf
systemd-sysusers /usr/local/lib/sysusers.d/ocr-daemon.conf
systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/ocr-daemon.conf
[ -e /etc/ocr-daemon/config.toml ] || install -m 644 config.toml /etc/ocr-daemon/config.toml
ln -sf $venv/bin/ocr-daemon /usr/local/bin/ocr-daemon
runuser -u ocr-daemon -- $venv/bin/ocr-daemon version

trap - EXIT
rm -rf "$wheels" $prefix/.venv.old
[ ! -d /run/systemd/system ] || systemctl daemon-reload
cat <<END
Installed in $prefix.  Now:
1. edit /etc/ocr-daemon/config.toml
2. runuser -u ocr-daemon -- ocr-daemon check
3. systemctl enable --now ocr-daemon
END
