#!/bin/sh
# Becomes the init of a machine of its own: run by machine.py inside fresh namespaces.
#   boot.sh SCRATCH REPOSITORY VENV
# What it changes below / goes to a tmpfs in SCRATCH and is gone with it; the network is the real one.
set -e
scratch=$1 repository=$2 venv=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
# On a tmpfs of its own: an upper directory may not lie below the lower one.
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"

# What a mountd of this machine has kept is none of that one's.
rm -rf var/cache/mountd var/lib/mountd etc/mountd
mkdir -p opt/mountd-test/repository opt/mountd-test/venv
mount --bind "$repository" opt/mountd-test/repository
mount --bind "$venv" opt/mountd-test/venv

# The service user runs the Python of the tests, which may be in somebody's home.
way=$(readlink -f "$venv/bin/python")
while [ "$way" != / ]; do
    way=$(dirname "$way")
    chmod a+x ".$way"
done

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229; do
    name=${node%%:*} numbers=${node#*:}
    mknod -m 666 "dev/$name" c "${numbers%:*}" "${numbers#*:}"
done
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx

: >etc/machine-id
# What a test has no use for, and what would fetch from the network or look at real disks.
for unit in apt-daily.timer apt-daily-upgrade.timer systemd-networkd.service systemd-timesyncd.service \
    systemd-binfmt.service systemd-journal-flush.service systemd-udevd.service systemd-modules-load.service \
    systemd-sysctl.service systemd-remount-fs.service sys-kernel-debug.mount sys-kernel-tracing.mount \
    dev-hugepages.mount dev-mqueue.mount systemd-firstboot.service systemd-random-seed.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
: >etc/fstab

pivot_root . mnt
umount -l /mnt
# As systemd does it outside of containers: what it mounts for a unit (credentials) is made elsewhere.
mount --make-rshared /
exec env -i container=mountd-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=basic.target </dev/null >/dev/null 2>&1
