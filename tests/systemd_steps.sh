#!/usr/bin/env bash
# The unit under a real systemd: PID 1 in namespaces over a fresh Debian root, no virtual machine.
#
#   sudo tests/systemd_steps.sh FOLDER
#
# Needs root, mmdebstrap, cgroup v2 and the network; FOLDER keeps the Debian root for the next run.  It installs by
# `make install` as systemd/README.md says, and tries what only systemd can show: READY, the sandbox, the watchdog, a
# drain, exit code 78, shares that come and go, the drop-in for machines without a GPU.
# Left out: NFS, the memory killer, GPUs.
set -euo pipefail

outside() {
  local folder=$1 root=$1/debian over=$1/run group
  mkdir -p "$folder"
  [ -e "$root/etc/debian_version" ] || mmdebstrap --quiet --variant=minbase \
    --include=systemd,systemd-sysv,dbus,python3,python3-pip,make,git,procps \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' bookworm "$root"
  rm -rf "$over"
  mkdir -p "$over"/{up,work,root}
  mount -t overlay -o "lowerdir=$root,upperdir=$over/up,workdir=$over/work" none "$over/root"
  cd "$over/root"
  : >etc/fstab
  cp -L /etc/resolv.conf etc/resolv.conf
  cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ca-certificates.crt
  git clone --quiet "$repository" usr/local/src/ocr-daemon
  cp "$repository/tests/systemd_steps.sh" steps.sh
  cat >etc/systemd/system/steps.service <<'UNIT'
[Unit]
After=basic.target
[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=-/bin/bash /steps.sh inside
ExecStopPost=/bin/systemctl poweroff --force --force
UNIT
  mkdir -p etc/systemd/system/multi-user.target.wants
  ln -s ../steps.service etc/systemd/system/multi-user.target.wants/steps.service
  ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
  mount -t sysfs -o ro sys sys
  mount -t tmpfs -o mode=755 tmpfs run
  mount -t tmpfs tmpfs dev
  local node
  for node in null zero full random urandom tty; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
  done
  mkdir dev/pts dev/shm
  mount -t tmpfs -o mode=1777 tmpfs dev/shm
  mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  # A control group of its own, so that this systemd never touches the others of the machine.
  mkdir "$over/cgroup"
  mount -t cgroup2 none "$over/cgroup"
  group=$over/cgroup/systemd-steps-$$
  mkdir "$group"
  # shellcheck disable=SC2016  # expanded inside
  timeout --kill-after=5 900 bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" \
    unshare --cgroup --pid --fork --uts --ipc --mount --kill-child bash -c '
    mount -t proc proc proc && mount -t cgroup2 cgroup2 sys/fs/cgroup && mount --make-rshared . &&
    exec env -i container=steps PATH=/usr/sbin:/usr/bin:/sbin:/bin \
      chroot . /lib/systemd/systemd --log-target=null' || true
  find "$group" -depth -type d -exec rmdir {} +
  cat "$over/up/var/log/steps"
  tail -n 1 "$over/up/var/log/steps" | grep -qx 'all steps passed'
}

step() { printf '=== %s\n' "$*"; }

eventually() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    if ((SECONDS >= deadline)); then
      echo "not within its time: $*"
      systemctl status --no-pager --lines 30 ocr-daemon || true
      return 1
    fi
    sleep 0.2
  done
}

property() { systemctl show --property "$1" --value ocr-daemon; }
status_says() { property StatusText | grep -qi -- "$1"; }
drop() { # NAME: a PDF with one line of text; a file of another user of the share
  /opt/ocr-daemon/.venv/bin/python - "/srv/ocr/inbox/$1" <<'PYTHON'
import sys, pymupdf
with pymupdf.open() as document:
    document.new_page().insert_text((72, 100), "Quarterly report of the harbour office", fontsize=20)
    document.save(sys.argv[1])
PYTHON
}
is_done() { [ -e "/srv/ocr/outbox/$1.manifest.json" ] && [ -e "/srv/ocr/done/$1" ] && grep -qi harbour "/srv/ocr/outbox/$1.md"; }
drop_in() { # NAME LINES...
  local file=/etc/systemd/system/ocr-daemon.service.d/$1.conf
  shift
  mkdir -p "${file%/*}"
  printf '%s\n' '[Service]' "$@" >"$file"
  systemctl daemon-reload
}

inside() {
  exec >/var/log/steps 2>&1
  umask 002
  cd /usr/local/src/ocr-daemon
  step "install"
  make --silent install
  make --silent install # again
  step "nothing to complain about in the unit"
  [ -z "$(systemd-analyze verify ocr-daemon.service 2>&1)" ]
  systemd-analyze security --no-pager ocr-daemon | tail -n 1
  step "the steps of the manual"
  runuser -u ocr-daemon -- ocr-daemon check
  systemctl enable --now ocr-daemon # returns with READY, that is after the warm-up page
  property StatusText
  step "a document is read, and its results belong to the group"
  drop first.pdf
  eventually 60 is_done first.pdf
  stat -c '%A %U %G %n' /srv/ocr /srv/ocr/* /srv/ocr/outbox/*
  [ "$(stat -c %a:%G /srv/ocr/inbox)" = 2775:ocr-daemon ]
  [ "$(stat -c %a:%G /srv/ocr/outbox/first.pdf.md)" = 664:ocr-daemon ]
  step "status, audit; the log is JSON"
  ocr-daemon status
  runuser -u ocr-daemon -- ocr-daemon audit
  journalctl --no-pager --output cat --unit ocr-daemon | grep -c '^{'
  step "an installation leaves a running service alone"
  if make --silent install; then exit 1; fi
  step "reload: a good one, a wrong one, a good one"
  systemctl reload ocr-daemon
  echo 'nonsense = 1' >>/etc/ocr-daemon/config.toml
  systemctl reload ocr-daemon
  eventually 10 status_says 'config'
  property StatusText
  sed -i '$d' /etc/ocr-daemon/config.toml
  systemctl reload ocr-daemon
  step "worker processes die, the service lives"
  local main
  main=$(property MainPID)
  pkill --signal KILL --parent "$main" || true
  drop second.pdf
  eventually 60 is_done second.pdf
  [ "$main" = "$(property MainPID)" ]
  step "another share covers the root, as an empty mount point would: a pause; it goes, the work goes on"
  mount -t tmpfs tmpfs /srv/ocr
  eventually 60 status_says 'paused'
  property StatusText
  [ -z "$(ls -A /srv/ocr)" ]
  umount /srv/ocr
  drop third.pdf
  eventually 90 is_done third.pdf
  [ "$main" = "$(property MainPID)" ]
  step "SIGTERM drains: exit code 0, nothing killed"
  drop fourth.pdf
  eventually 30 test ! -e /srv/ocr/inbox/fourth.pdf
  systemctl stop ocr-daemon
  [ "$(property Result):$(property ExecMainStatus)" = success:0 ]
  systemctl start ocr-daemon
  eventually 60 is_done fourth.pdf
  step "a daemon that stands still is replaced by the watchdog"
  drop_in quick WatchdogSec=5 RestartSec=1
  systemctl restart ocr-daemon
  main=$(property MainPID)
  kill -STOP "$main"
  eventually 60 restarted
  eventually 60 systemctl --quiet is-active ocr-daemon
  drop fifth.pdf
  eventually 60 is_done fifth.pdf
  step "a wrong configuration stays down"
  echo 'nonsense = 1' >>/etc/ocr-daemon/config.toml
  systemctl restart ocr-daemon || true
  sleep 4
  [ "$(property ActiveState):$(property ExecMainStatus)" = failed:78 ]
  sed -i '$d' /etc/ocr-daemon/config.toml
  step "without devices and without memory that is writable and executable"
  install -D -m 644 systemd/cpu-only.conf /etc/systemd/system/ocr-daemon.service.d/cpu-only.conf
  systemctl daemon-reload
  systemctl start ocr-daemon
  drop sixth.pdf
  eventually 60 is_done sixth.pdf
  systemd-analyze security --no-pager ocr-daemon | tail -n 1
  step "everything is accounted for"
  systemctl stop ocr-daemon
  [ "$(property Result)" = success ]
  runuser -u ocr-daemon -- ocr-daemon audit
  echo 'all steps passed'
}

restarted() { [ "$(property NRestarts)" -ge 1 ]; }

case ${1:?FOLDER is missing} in
inside) inside ;;
in-namespace) repository=$3 outside "$2" ;;
*)
  repository=$(cd "$(dirname "$0")/.." && pwd)
  mkdir -p "$1"
  exec unshare --mount --propagation private "$repository/tests/systemd_steps.sh" in-namespace "$(cd "$1" && pwd)" "$repository"
  ;;
esac
