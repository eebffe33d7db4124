#!/bin/sh
# A script lists /root without being root. Started by 'make demo'; leaves nothing behind.
set -eu
cd "$(dirname "$0")"
exec 2>&1

[ "$(id -u)" = 0 ] || { echo "The demo makes accounts and marks files: sudo make demo"; exit 1; }

place=$(mktemp -d /var/lib/caps-demo-XXXXXX)
owner=caps-owner-$$ caller=caps-caller-$$
clean_up() {
    status=$?
    trap - EXIT
    "$CAPS" ppy remove --prefix "$place/usr" >/dev/null 2>&1 || :
    for account in $owner $caller; do userdel "$account" 2>/dev/null || :; done
    rm -rf "$place"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM

bold= plain=
[ ! -t 1 ] || { bold=$(printf '\033[1m') plain=$(printf '\033[0m'); }
show() { printf '\n%s\n' "$bold$1$plain"; shift; echo "# $*"; "$@"; }
as_caller="setpriv --reuid=$caller --regid=$caller --clear-groups"

chmod 755 "$place"
useradd --no-create-home --user-group $owner
useradd --no-create-home --user-group $caller
/usr/bin/python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-index --no-deps ../build/wheel/*.whl
script=$place/list_root.py
install -m 755 list_root.py "$script"
python=$place/venv/bin/python

show "An ordinary user's plain Python cannot list /root:" $as_caller "$python" "$script" && exit 1
show 'ppy is installed for an interpreter; this makes a capped copy of it:' \
    "$CAPS" ppy install --interpreter "$python" --prefix "$place/usr"
show 'The script gets an owner who is not root:' chown $owner:$owner "$script"
show 'setcap, a tool of libcap, marks it with what it may have:' \
    setcap cap_dac_read_search=i "$script"
show 'getcap shows the mark:' getcap "$script"
show 'The ordinary user starts it through ppy:' $as_caller "$place/usr/bin/ppy" "$script"
echo
echo "It ran as $owner with cap_dac_read_search permitted; effective was its own decision."
