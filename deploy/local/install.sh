#!/bin/sh
# Installs the PostgreSQL and RabbitMQ programs that `make demo` and `make test` need, from the distribution, and
# only those that are missing. It starts no service, creates no database cluster, enables nothing at boot, and
# leaves alone whatever is installed or running already. With everything there it returns at once.
#
# DATABASE_URL or AMQP_URL set: that server is the user's own, and nothing is installed for it.
# With the arguments `faketime`, `prometheus`, `chromium` and `pgbouncer` it also installs libfaketime, by which the tests let a
# private server's clock step, Prometheus, which they let judge the alerts and dashboards, Chromium, in which they look at the
# operators' page, and PgBouncer, which they put between workers and database; where those can't be had, it says so, and those
# tests tell what they skip.
# The programs are looked for where src/local/ looks for them: keep the two alike.
set -eu

postgres_min=13
pgbouncer_min=21    # 1.21: the first that keeps prepared statements in transaction mode
pgbouncer_own=/usr/local/lib/outdial/pgbouncer
wanted=$*
lock_wait_s=300
policy=/usr/sbin/policy-rc.d
policy_kept=/usr/sbin/policy-rc.d.kept-by-outdial
cluster_dir=/etc/postgresql-common/createcluster.d
cluster_conf=$cluster_dir/zz-outdial.conf

say() { printf '%s\n' "install.sh: $*" >&2; }

postgres_there() {
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        bin=${initdb%/initdb}
        major=${bin#/usr/lib/postgresql/}
        major=${major%%[!0-9]*}
        [ -x "$initdb" ] && [ -x "$bin/postgres" ] && [ "${major:-0}" -ge "$postgres_min" ] && return 0
    done
    command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1 || return 1
    major=$(postgres -V | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    [ "${major:-0}" -ge "$postgres_min" ]
}

rabbitmq_there() {
    # Never the wrapper in /usr/sbin: it switches user and sets HOME to the system broker's.
    for server in /usr/lib/rabbitmq/bin/rabbitmq-server /usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server \
        /opt/rabbitmq/sbin/rabbitmq-server /opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server \
        /usr/local/opt/rabbitmq/sbin/rabbitmq-server; do
        [ -x "$server" ] && return 0
    done
    return 1
}

faketime_there() {
    for library in /usr/lib/faketime/libfaketime.so.1 /usr/lib/*/faketime/libfaketime.so.1; do
        [ -r "$library" ] && return 0
    done
    return 1
}

chromium_there() {
    command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1
}

minor_of() { sed -n 's/^'"$1"' 1\.\([0-9]*\).*/\1/p'; }

# Keep the places alike with tests/it/pooler.rs.
pgbouncer_there() {
    for program in "$pgbouncer_own" pgbouncer /usr/sbin/pgbouncer; do
        minor=$("$program" --version 2>/dev/null | minor_of PgBouncer)
        [ "${minor:-0}" -lt "$pgbouncer_min" ] || return 0
    done
    return 1
}

find_missing() {
    missing= optional=
    case " $wanted " in *" faketime "*) faketime_there || optional=libfaketime ;; esac
    case " $wanted " in *" prometheus "*) command -v prometheus >/dev/null 2>&1 || optional="${optional:+$optional }prometheus" ;; esac
    case " $wanted " in *" chromium "*) chromium_there || optional="${optional:+$optional }chromium" ;; esac
    case " $wanted " in *" pgbouncer "*) pgbouncer_there || optional="${optional:+$optional }pgbouncer" ;; esac
    [ -n "${DATABASE_URL:-}" ] || postgres_there || missing=postgresql
    [ -n "${AMQP_URL:-}" ] || rabbitmq_there || missing="${missing:+$missing }rabbitmq-server"
}

cannot() {
    if [ -z "$missing" ]; then
        say "$optional is not installed ($1): what needs it is skipped"
        exit 0
    fi
    say "cannot install by itself: $1"
    say "what is missing: $missing"
    case $missing in *postgresql*) say "  PostgreSQL server $postgres_min or newer (Debian and Ubuntu: postgresql)" ;; esac
    case $missing in *rabbitmq*) say "  RabbitMQ 3.10 or newer (Debian and Ubuntu: rabbitmq-server)" ;; esac
    if command -v apt-get >/dev/null 2>&1; then
        say "as root, run:  $0    or:  apt-get install --no-install-recommends $missing"
    fi
    say "or name servers of your own with DATABASE_URL and AMQP_URL"
    exit 1
}

# One enabled unit or boot script a line; what is new after the install is switched off again.
enabled_links() {
    find /etc/systemd /etc/rc[0-6S].d -type l \( -path '/etc/systemd/*' -o -name 'S*' \) 2>/dev/null | LC_ALL=C sort
}

disable_new() {
    enabled_links | LC_ALL=C comm -13 "$work/enabled" - | while read -r link; do
        case $link in
        /etc/rc*) # S01name
            name=${link##*/S[0-9][0-9]}
            update-rc.d "$name" disable ;;
        *)
            ! command -v systemctl >/dev/null || systemctl disable "${link##*/}"
            # Without systemd (a container) the packages make the links all the same, and nothing else unmakes them.
            [ ! -L "$link" ] || rm "$link" ;;
        esac >>"$work/disable.log" 2>&1 </dev/null || : # judged below by what is left
    done
    left=$(enabled_links | LC_ALL=C comm -13 "$work/enabled" -)
    [ -z "$left" ] || { say "still enabled at boot, switch off by hand:" $left; return 1; }
}

# Debian's packages start their services when installed, unless this file forbids it.
forbid_start() {
    if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$policy_kept"; fi
    printf '#!/bin/sh\n# put here by outdial for the length of an install\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    case $missing in
    *postgresql*)
        [ -d "$cluster_dir" ] || { mkdir -p "$cluster_dir" && : >"$work/made_cluster_dir"; }
        echo 'create_main_cluster = false' >"$cluster_conf" ;;
    esac
}

# Also mends what an earlier run left that was killed outright.
allow_start() {
    if grep -qs 'put here by outdial' "$policy"; then rm -f "$policy"; fi
    if [ -e "$policy_kept" ] || [ -L "$policy_kept" ]; then mv "$policy_kept" "$policy"; fi
    rm -f "$cluster_conf"
    [ ! -e "$work/made_cluster_dir" ] || rmdir "$cluster_dir" 2>/dev/null || :
}

cleanup() {
    status=$?
    trap '' INT TERM HUP
    trap - EXIT
    disable_new || status=1
    allow_start
    rm -rf "$work"
    exit "$status"
}

# In a session of its own, so that Ctrl-C doesn't cut dpkg off in the middle: "stoppable" work is told to stop, an
# install that has begun is waited for. needrestart (Ubuntu) would restart other people's services.
apt() {
    stoppable=$1
    shift
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 NEEDRESTART_MODE=l setsid apt-get -q -y \
        -o DPkg::Lock::Timeout="$lock_wait_s" -o Dpkg::Options::=--force-confold "$@" </dev/null >&2 9>&- &
    apt_pid=$!
    apt_status=1
    while kill -s 0 "$apt_pid" 2>/dev/null; do
        apt_status=0
        wait "$apt_pid" || apt_status=$?
    done
    [ "$interrupted" -eq 0 ] || exit "$interrupted"
    return "$apt_status"
}

interrupt() {
    interrupted=$1
    if [ "$stoppable" = yes ]; then
        kill -s INT "$apt_pid" 2>/dev/null || :
    else
        say "ending once the packages are set up"
    fi
}

# The lock on the package lists is not covered by DPkg::Lock::Timeout everywhere.
update_lists() {
    tries=10
    until apt yes update; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        say "apt-get update failed; again in 5 s ($tries tries left)"
        sleep 5
    done
}

download() {
    # shellcheck disable=SC2086  # a list of package names
    apt yes --no-install-recommends --download-only install $1
}

# The packages named, with the lists there are; only where those don't do are they read anew, once: no lists yet, or so old that the
# files are gone from the mirror.
updated=
fetch() {
    # shellcheck disable=SC2086
    if apt-get -s --no-install-recommends install $1 >/dev/null 2>&1 && download "$1"; then return 0; fi
    [ -z "$updated" ] || return 1
    updated=yes
    update_lists || say "apt-get update failed; trying with the lists there are"
    download "$1"
}

# The package, where it is new enough (Debian 13, Ubuntu 24.04).
install_pgbouncer() {
    apt-cache show pgbouncer >/dev/null 2>&1 || [ -n "$updated" ] || { updated=yes && update_lists; } || return 1
    minor=$(apt-cache show --no-all-versions pgbouncer 2>/dev/null | minor_of Version:)
    if [ "${minor:-0}" -lt "$pgbouncer_min" ]; then build_pgbouncer; return; fi
    fetch pgbouncer && apt no --no-install-recommends install pgbouncer
}

# Debian 12: one program, built from the source of the release after it, which the mirror has that this machine is set up with.
# Nothing else of that release comes here, and no package is installed: what is needed to build is unpacked beside it.
build_pgbouncer() {
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian bookworm //p' | sort -u | head -n 1)
    [ -n "$mirror" ] || { say "no mirror of Debian 12 is set up here, and the package is too old"; return 1; }
    newer="-o Dir::Etc::SourceList=$work/newer.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$work/lists
        -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" && cd "$work" || return 1
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >newer.list
    # shellcheck disable=SC2086  # a list of options
    apt yes $newer update && apt yes $newer source --download-only pgbouncer || return 1
    apt yes -o APT::Sandbox::User=root download libevent-dev || return 1
    stoppable=no
    if ! { dpkg-deb -x libevent-dev_*.deb libevent && tar -xzf pgbouncer_*.orig.tar.gz && make_pgbouncer; } >"$work/build.log" 2>&1; then
        tail -n 5 "$work/build.log" >&2
        return 1
    fi
}

make_pgbouncer() {
    headers=$work/libevent/usr/include
    cd pgbouncer-*/ || return 1
    ./configure -q --without-openssl --without-cares CFLAGS=-O1 \
        LIBEVENT_CFLAGS="-I$headers $(printf -- '-I%s ' "$headers"/*-linux-*)" \
        LIBEVENT_LIBS="$(echo "$work"/libevent/usr/lib/*/libevent.a)" &&
        make -s -j2 pgbouncer && install -D -m 755 pgbouncer "$pgbouncer_own"
}

install_missing() {
    if [ -n "$missing" ]; then
        fetch "$missing" || return 1
        # shellcheck disable=SC2086
        apt no --no-install-recommends install $missing || return 1
    fi
    # Each by itself: an older release may not have one of them.
    for package in $optional; do
        case $package in
        pgbouncer) install_pgbouncer ;;
        *) fetch "$package" && apt no --no-install-recommends install "$package" ;;
        esac || say "$package could not be installed: what needs it is skipped"
        [ "$interrupted" -eq 0 ] || exit "$interrupted"
    done
}

find_missing
[ -n "$missing$optional" ] || exit 0

command -v apt-get >/dev/null 2>&1 || cannot "this system has no apt-get"
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || cannot "not root, and there is no sudo"
    say "installing $missing $optional with sudo"
    # Without a terminal sudo can't ask for a password, and nobody is asked for one for what is optional.
    sudo -n true 2>/dev/null || { [ -n "$missing" ] && [ -t 0 ] && sudo -v; } || cannot "not root, and sudo is refused"
    exec sudo env DATABASE_URL="${DATABASE_URL:+set}" AMQP_URL="${AMQP_URL:+set}" sh "$0" "$@"
fi

# Two runs side by side: the second waits, and then finds nothing to do.
exec 9>/run/outdial-install.lock
flock -w "$lock_wait_s" 9 || cannot "another install has not ended within $lock_wait_s s"
find_missing
[ -n "$missing$optional" ] || exit 0

say "installing $missing $optional (starting no service)"
umask 022
work=$(mktemp -d)
enabled_links >"$work/enabled"
allow_start
interrupted=0 stoppable=no apt_pid=
trap cleanup EXIT
trap 'interrupt 130' INT
trap 'interrupt 143' TERM HUP
forbid_start
if ! install_missing; then
    say "apt-get could not install $missing; its own message is above"
    exit 1
fi
find_missing
[ -z "$missing" ] || cannot "installed, but still not found"
