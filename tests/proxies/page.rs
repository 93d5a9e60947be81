//! `docs/deployment.md` is followed, command by command, on a machine of its own: a network without
//! anybody else, so that every port is free, and directories of the system that are copies.
//!
//! Blocks of `sh` are run in their order by one shell; those of `console` need what is not here.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::support::programs::{is_there, runs};

/// What stands around the commands. `systemctl` starts a program as a unit would, a stream is read
/// as if by somebody who presses Ctrl-C when nothing more has come for some seconds, and each answer has its
/// command above.
const AROUND: &str = r#"
set -eu
ip link set lo up
for directory in /etc/nginx /etc/caddy /etc/haproxy; do
    copy="$COPIES$directory"
    mkdir -p "$copy"
    cp -r "$directory/." "$copy"
    mount --bind "$copy" "$directory"
done
for directory in /var/lib /var/log /run; do
    mount -t tmpfs tmpfs "$directory"
done
mkdir -p /var/lib/nginx /var/log/nginx
systemctl() {
    test "$1" = restart
    "$2"
}
follow() (
    "$(type -P curl)" -sS "$@" >"$COPIES/stream" &
    seen=0 quiet=0
    for _ in {1..40}; do
        sleep 1
        size=$(stat -c %s "$COPIES/stream")
        test "$size" = "$seen" || quiet=0
        quiet=$((quiet + 1)) seen=$size
        if test $quiet -gt 3 && grep -q '^data:' "$COPIES/stream"; then break; fi
    done
    cat "$COPIES/stream"
    kill $!
    status=0
    wait $! || status=$?
    test $status = 143
)
curl() {
    echo "==> curl $*"
    case " $* " in
    *" -N "*) follow "$@" ;;
    *) "$(type -P curl)" -sS --max-time 20 "$@" ;;
    esac
    echo
}
"#;

/// The commands on a page, line by line.
fn commands(page: &str) -> String {
    let mut commands = String::new();
    let mut is_run = false;
    for line in page.lines() {
        if line.starts_with("```") {
            is_run = line == "```sh";
        } else if is_run {
            commands.extend([line, "\n"]);
        }
    }
    commands
}

fn has_programs() -> bool {
    let programs = [
        ("nginx", "-v"),
        ("caddy", "version"),
        ("haproxy", "-v"),
        ("curl", "--version"),
        ("ip", "-V"),
    ];
    programs.iter().all(|(program, version)| is_there(program, runs(program, &[version])))
        && is_there("a namespace", runs("unshare", &["-mnpf", "--kill-child", "true"]))
}

#[test]
fn the_page_on_deployment_is_followed() {
    if !has_programs() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/deployment.md")).expect("it is there");
    let copies = tempfile::tempdir().expect("there is room");
    let program =
        Path::new(env!("CARGO_BIN_EXE_tidewheel")).parent().expect("it is in a directory");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("there is one"));
    // A shell that is the first process of its namespace takes all others with it.
    let mut command = Command::new("unshare");
    command.args(["-mnpf", "--kill-child", "--mount-proc", "timeout", "300", "bash", "-c"]);
    command.arg(AROUND.to_owned() + &commands(&page));
    command.current_dir(root).env("PATH", path).env("COPIES", copies.path()).stdin(Stdio::null());
    let output = command.output().expect("it is there");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{errors}", output.status);

    // What came of each command of curl, in their order.
    let answers: Vec<(&str, &str)> =
        said.split("==> ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    let mut answers = answers.into_iter();
    let mut next = |command: &str, expected: &[&str]| {
        let (asked, answer) = answers.next().unwrap_or_else(|| panic!("{command} was not run"));
        assert!(asked.contains(command), "{asked} where the page has {command}");
        for text in expected {
            assert!(answer.contains(text), "{asked}: no {text:?} in {answer}\n{errors}");
        }
    };
    next("/runs --json", &["\"id\":1"]);
    next("/runs/1/events --json", &["\"id\":2"]);
    next("/health/sse", &["event: probe"]);
    next("/runs/1/events/stream", &["event: RUN_CREATED", "event: STEP", "hello"]);
    next("-i -H Accept: text/event-stream", &["200 OK", "retry: ", "\"reason\":\"away\""]);
    next("-i http://localhost/runs/1/events --json", &["503 Service", "Retry-After: 3"]);
    next("-N -H Last-Event-ID: 1", &["id: 2\n", "hello"]);
    next("-i -H Origin: https://console", &["Access-Control-Allow-Origin: https://console"]);
    next("wait=2", &["\"next_after_id\":2", "\"id\":2"]);
    assert_eq!(answers.next(), None, "the page has more than this test knows of");
}
