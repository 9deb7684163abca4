#!/bin/sh
# What a container runtime does, as far as these tests need it: run by containers.py inside fresh mount and pid
# namespaces that descend from the "host's".
#   container.sh SCRATCH IMAGE REPOSITORY VENV [SOURCE:TARGET:PROPAGATION ...] -- COMMAND...
# IMAGE is a root file system; / stands for this machine's own, with mountd run from REPOSITORY and VENV.
set -e
scratch=$1 image=$2 repository=$3 venv=$4
shift 4
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$image,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
root=$scratch/root

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229; do
    name=${node%%:*} numbers=${node#*:}
    mknod -m 666 "$root/dev/$name" c "${numbers%:*}" "${numbers#*:}"
done
ln -s /proc/self/fd "$root/dev/fd"

if [ "$image" = / ]; then
    # What the Dockerfile makes, of what this machine has.
    mkdir -p "$root/opt/mountd-test/repository" "$root/opt/mountd-test/venv" "$root/opt/mountd/bin"
    mount --bind "$repository" "$root/opt/mountd-test/repository"
    mount --bind "$venv" "$root/opt/mountd-test/venv"
    way=$(readlink -f "$venv/bin/python")
    while [ "$way" != / ]; do
        way=$(dirname "$way")
        [ ! -e "$root$way" ] || chmod a+x "$root$way"
    done
    cat >"$root/opt/mountd/bin/mountd" <<'WRAPPER'
#!/bin/sh
export PYTHONPATH=/opt/mountd-test/repository:/opt/mountd-test/repository/cache PYTHONDONTWRITEBYTECODE=1
exec /opt/mountd-test/venv/bin/python -P -m mountd "$@"
WRAPPER
    chmod 755 "$root/opt/mountd/bin/mountd"
    echo user_allow_other >>"$root/etc/fuse.conf"
    ln -sf ../proc/self/mounts "$root/etc/mtab"
    echo mountd:x:10001:10001::/var/cache/mountd:/bin/sh >>"$root/etc/passwd"
    echo mountd:x:10001: >>"$root/etc/group"
    rm -rf "$root/var/cache/mountd" # what a mountd of this machine has kept
    mkdir -p "$root/var/cache/mountd"
    chmod 1777 "$root/var/cache/mountd"
fi

while [ "$1" != -- ]; do
    source=${1%%:*} rest=${1#*:}
    target=${rest%%:*} propagation=${rest#*:}
    mkdir -p "$root$target"
    mount --rbind "$source" "$root$target"
    mount "--make-$propagation" "$root$target"
    shift
done
shift

cd "$root"
mkdir -p mnt/before
pivot_root . mnt/before
# As runc does it: what goes with the old root goes here alone, and not from the host.
mount --make-rslave /mnt/before
umount -l /mnt/before
cd /
exec "$@"
