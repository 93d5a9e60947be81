//! A proxy as a process of its own, with a configuration in which only addresses were replaced, and
//! curl to speak through it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Instant,
};

use super::support::{
    DEADLINE, nginx,
    programs::{Listening, Running, is_there, runs},
};

/// Which proxy, with which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `deploy/nginx/tidewheel.conf`
    Nginx,
    /// `deploy/nginx/tidewheel-complete.conf`: TLS and HTTP/2.
    NginxComplete,
    /// nginx as it was set up for other servers.
    NginxGuide,
    /// `deploy/caddy/Caddyfile`
    Caddy,
    /// `deploy/haproxy/haproxy.cfg`
    Haproxy,
}

impl Kind {
    const ALL: [Kind; 5] =
        [Kind::Nginx, Kind::NginxComplete, Kind::NginxGuide, Kind::Caddy, Kind::Haproxy];

    /// Those whose programs are there.
    pub fn all() -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| kind.is_there()).collect()
    }

    /// Those that are set up with our files.
    pub fn ours() -> Vec<Kind> {
        Kind::all().into_iter().filter(|kind| *kind != Kind::NginxGuide).collect()
    }

    fn is_there(self) -> bool {
        let runs = match self {
            Kind::Nginx | Kind::NginxGuide => runs("nginx", &["-v"]),
            Kind::NginxComplete => runs("nginx", &["-v"]) && runs("openssl", &["version"]),
            Kind::Caddy => runs("caddy", &["version"]),
            Kind::Haproxy => runs("haproxy", &["-v"]),
        };
        is_there(&format!("{self:?}"), runs && runs_curl())
    }

    fn file(self) -> &'static str {
        match self {
            Kind::Nginx => "deploy/nginx/tidewheel.conf",
            Kind::NginxComplete => "deploy/nginx/tidewheel-complete.conf",
            Kind::NginxGuide => "tests/proxies/guide.conf",
            Kind::Caddy => "deploy/caddy/Caddyfile",
            Kind::Haproxy => "deploy/haproxy/haproxy.cfg",
        }
    }

    /// Whether it passes on the body of a request while it comes in.
    pub fn streams_requests(self) -> bool {
        !matches!(self, Kind::Nginx | Kind::NginxGuide)
    }

    /// Whether its file has a frontend beside the server.
    pub fn has_frontend(self) -> bool {
        matches!(self, Kind::NginxComplete | Kind::NginxGuide)
    }

    /// Whether it answers pages of another origin while the server is away.
    pub fn answers_pages(self) -> bool {
        matches!(self, Kind::NginxComplete | Kind::Caddy | Kind::Haproxy)
    }
}

fn runs_curl() -> bool {
    runs("curl", &["--version"])
}

/// A running proxy. It is killed when this is dropped, and if a test fails its log is shown.
pub struct Proxy {
    /// Which one.
    pub kind: Kind,
    program: Listening,
}

impl Proxy {
    /// Starts it in front of a server.
    pub fn start(kind: Kind, server: SocketAddr) -> Proxy {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind.file());
        let text = fs::read_to_string(path).expect("the file is there");
        let program = Listening::start(&format!("{kind:?}"), |address, directory| {
            program(kind, &with_addresses(kind, &text, server, address, directory), directory)
        });
        Proxy { kind, program }
    }

    /// All of these in front of one server.
    pub fn start_each(kinds: &[Kind], server: SocketAddr) -> Vec<Proxy> {
        kinds.iter().map(|kind| Proxy::start(*kind, server)).collect()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.program.address()
    }

    /// A URL below it.
    pub fn url(&self, target: &str) -> String {
        let scheme = if self.kind == Kind::NginxComplete { "https" } else { "http" };
        format!("{scheme}://{}{target}", self.address())
    }

    /// A request through it, with these arguments of curl: what curl prints.
    pub fn curl(&self, target: &str, arguments: &[&str]) -> String {
        let mut command = self.curl_command(target, arguments);
        let output = command.args(["--max-time", "30"]).output().expect("curl is there");
        assert!(
            output.status.success(),
            "{:?} {target}: {}",
            self.kind,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("answers are UTF-8")
    }

    /// The same as a command that has not been started.
    pub fn curl_command(&self, target: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "-N", "-k", "--noproxy", "*", "--compressed"]);
        command.args(arguments).arg(self.url(target));
        command
    }

    /// Follows a stream through it.
    pub fn follow(&self, target: &str, arguments: &[&str]) -> Running {
        let accept = ["-H", "Accept: text/event-stream"];
        Running::start(self.curl_command(target, &[&accept, arguments].concat()))
    }

    /// Begins to upload lines to a run.
    pub fn upload(&self, run: u64) -> Upload {
        let upload = ["-X", "POST", "-H", "Content-Type: application/x-ndjson", "-T", "-"];
        let mut command = self.curl_command(&format!("/runs/{run}/events"), &upload);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Upload { kind: self.kind, curl: command.spawn().expect("curl is there") }
    }

    /// Appends an event through it, and says its id.
    pub fn append(&self, run: u64) -> u64 {
        let answer =
            self.curl(&format!("/runs/{run}/events"), &["--json", r#"{"type":"A","payload":1}"#]);
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("it is JSON");
        answer["id"].as_u64().unwrap_or_else(|| panic!("{:?}: {answer}", self.kind))
    }
}

/// The next id in what curl prints of a stream.
pub fn next_id(stream: &Running) -> u64 {
    let started = Instant::now();
    loop {
        if let Some(id) = stream.line().strip_prefix("id: ") {
            return id.parse().expect("an id is a number");
        }
        // Keepalives do not make the wait any longer.
        assert!(started.elapsed() < DEADLINE, "no event, but keepalives");
    }
}

/// An upload that goes on for as long as one likes.
pub struct Upload {
    kind: Kind,
    curl: Child,
}

impl Upload {
    /// Sends an event.
    pub fn line(&mut self) {
        let lines = self.curl.stdin.as_mut().expect("it is piped");
        lines.write_all(b"{\"type\":\"A\"}\n").expect("curl reads");
    }

    /// Ends it: the answer, and through which proxy.
    pub fn end(mut self) -> (Kind, String) {
        drop(self.curl.stdin.take());
        let mut answer = String::new();
        let stdout = self.curl.stdout.as_mut().expect("it is piped");
        stdout.read_to_string(&mut answer).expect("answers are UTF-8");
        (self.kind, answer)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

/// The origin in our files whose pages may read what the proxy itself answers.
pub const PAGE: &str = "https://console.example.com";

/// What a frontend answers to everything.
pub const FRONTEND: &str = "the frontend";

/// Where a frontend listens, the same for all tests.
fn frontend() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there are ports");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            for mut connection in listener.incoming().map_while(Result::ok) {
                let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\n{FRONTEND}");
                // A proxy that has gone wants to hear nothing.
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection.write_all(answer.as_bytes());
            }
        });
        address
    })
}

/// The text of a configuration with the addresses of this test.
fn with_addresses(
    kind: Kind,
    text: &str,
    server: SocketAddr,
    address: SocketAddr,
    directory: &Path,
) -> String {
    let server = server.to_string();
    let tls = "/etc/nginx/tls/tidewheel";
    let directory = directory.display();
    let replaced = match kind {
        Kind::Nginx => {
            vec![("127.0.0.1:8000", server), ("listen 80;", format!("listen {address};"))]
        }
        Kind::NginxComplete => vec![
            ("127.0.0.1:8000", server),
            ("127.0.0.1:3001", frontend().to_string()),
            ("listen 80;", format!("listen unix:{directory}/plain;")),
            ("listen [::]:80;", String::new()),
            ("listen 443 ssl http2;", format!("listen {address} ssl http2;")),
            ("listen [::]:443 ssl http2;", String::new()),
            (tls, format!("{directory}/tidewheel")),
        ],
        Kind::NginxGuide => vec![
            ("localhost:8000", server),
            ("localhost:3001", frontend().to_string()),
            ("listen 80;", format!("listen {address};")),
        ],
        Kind::Caddy => {
            vec![("127.0.0.1:8000", server), ("\n:80 {", format!("\nhttp://{address} {{"))]
        }
        Kind::Haproxy => vec![("127.0.0.1:8000", server), ("bind :80", format!("bind {address}"))],
    };
    let mut text = text.to_owned();
    for (old, new) in replaced {
        assert!(text.contains(old), "{old:?} is not in {}", kind.file());
        text = text.replace(old, &new);
    }
    text
}

/// How the program is started in a directory of its own, in the foreground and as one process.
fn program(kind: Kind, text: &str, directory: &Path) -> Command {
    let file = directory.join("config");
    let mut command = match kind {
        Kind::Nginx | Kind::NginxComplete | Kind::NginxGuide => {
            if kind == Kind::NginxComplete {
                make_certificate(directory);
            }
            // All compression that there is, around ours.
            nginx::command(directory, &format!("gzip on; gzip_proxied any; gzip_types *;\n{text}"))
        }
        Kind::Caddy => {
            fs::write(&file, format!("{{\n\tadmin off\n}}\n{text}")).expect("it is our directory");
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
            command
        }
        Kind::Haproxy => {
            fs::write(&file, text).expect("it is our directory");
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f"]).arg(file);
            command
        }
    };
    // Caddy keeps certificates and its last configuration there.
    for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(variable, directory);
    }
    command
}

fn make_certificate(directory: &Path) {
    let mut command = Command::new("openssl");
    command.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '));
    command.args(["-subj", "/CN=tidewheel.example.com"]);
    command.arg("-keyout").arg(directory.join("tidewheel.key"));
    command.arg("-out").arg(directory.join("tidewheel.crt"));
    let output = command.output().expect("openssl is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
