//! nginx, as one process in the foreground that writes into a directory of its own.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use super::programs::{Listening, is_there, runs};

/// Whether it can be started. Says so if not, or fails when every program has to be there.
pub fn is_installed() -> bool {
    is_there("nginx", runs("nginx", &["-v"]))
}

/// Starts it with what these say inside of `http`, given the address for its `listen` and its directory.
pub fn start(http: impl Fn(SocketAddr, &Path) -> String) -> Listening {
    Listening::start("nginx", |address, directory| command(directory, &http(address, directory)))
}

/// How it is started with these lines inside of `http`. Paths in them are of this directory.
pub fn command(directory: &Path, http: &str) -> Command {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let configuration = format!(
        "daemon off; master_process off; pid pid; error_log stderr;\n\
         events {{ worker_connections 512; }}\n\
         http {{\naccess_log off;\n{temporary}{http}\n}}\n"
    );
    fs::write(directory.join("nginx.conf"), configuration).expect("it is our directory");
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(directory);
    command
}
