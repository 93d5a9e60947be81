#!/bin/sh
# Whether streams pass from a server to this place, watched for a while: the last step of every fix,
# and a canary after every change of a proxy.
#
#     validate-sse.sh [SECONDS [URL [OPTION ...]]]
#
# SECONDS is 300 when it is left out, URL is what $TIDEWHEEL_URL says, or port 8000 of this host.
# The options are those of `tidewheel check`, such as --publish, --json or --header.
# $TIDEWHEEL is the program, when it is not in the path.
# Exits with 0 when all is well, 1 when something is not, 2 when it could not run.
set -eu

seconds=${1:-300}
url=${2:-${TIDEWHEEL_URL:-http://127.0.0.1:8000}}
[ $# -lt 1 ] || shift
[ $# -lt 1 ] || shift

case $seconds in
'' | *[!0-9]*)
    echo "usage: $0 [SECONDS [URL [OPTION ...]]]" >&2
    exit 2
    ;;
esac
tidewheel=${TIDEWHEEL:-tidewheel}
if ! command -v "$tidewheel" >/dev/null; then
    echo "$0: there is no $tidewheel; set TIDEWHEEL to where it is" >&2
    exit 2
fi
exec "$tidewheel" check "$url" --for "${seconds}s" "$@"
