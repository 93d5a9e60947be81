//! Clients at the other end of a link that is cut without a word. Each has a network of its own, and so has the
//! test: nothing of it can be seen from the machine's own network, and nothing of it is left when the
//! processes are gone, however they end. Takes root; where it cannot be had the test says that it is skipped.

use std::{fs::File, os::fd::AsFd as _, process::Command};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    eventually,
    programs::{Running, is_there, runs},
};

/// Where a server that listens on all addresses is for the client of this number, and where that is itself.
fn addresses(number: u8) -> [String; 2] {
    [format!("10.0.{number}.1"), format!("10.0.{number}.2")]
}

/// Takes the calling thread, and all that it starts from now on, into a network of its own with nothing in it
/// but loopback.
pub fn enter_network() -> bool {
    let can_be_had = runs("unshare", &["-n", "ip", "link", "set", "lo", "up"])
        && runs("nsenter", &["--version"]);
    if !is_there("a network of its own", can_be_had) {
        return false;
    }
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 60"]);
    let holder = Running::start(command);
    assert_eq!(holder.line(), "up");
    let network = File::open(format!("/proc/{}/ns/net", holder.id())).expect("it is our process");
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("who can make one can enter one");
    true
}

/// A client that follows a stream from a network of its own.
pub struct FarClient {
    number: u8,
    curl: Running,
}

impl FarClient {
    /// Follows a stream of a server on all addresses of this thread's network, as curl. No two have one number.
    pub fn follow(number: u8, port: u16, target: &str) -> FarClient {
        let [near, far] = addresses(number);
        let script = format!(
            "echo waits; until ip link show far >/dev/null 2>&1; do sleep 0.02; done
             ip address add {far}/24 dev far && ip link set far up
             exec curl -sSN --noproxy '*' http://{near}:{port}{target}"
        );
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", &script]);
        let client = FarClient { number, curl: Running::start(command) };
        assert_eq!(client.curl.line(), "waits");
        let process = client.curl.id();
        tell(&format!("link add near{number} type veth peer far netns {process}"));
        tell(&format!("address add {near}/24 dev near{number}"));
        tell(&format!("link set near{number} up"));
        assert!(client.curl.line().starts_with("retry: "), "the stream has begun");
        client
    }

    /// Its network is gone: a laptop is closed.
    pub fn vanish(&self) {
        self.tell("link set far down");
    }

    /// What is sent to it still goes out, and nobody answers: a firewall has forgotten the connection.
    pub fn be_forgotten(&self) {
        let [_, far] = addresses(self.number);
        let hardware = eventually("its hardware address is known", || {
            let output = Command::new("ip").args(["neighbour", "show", &far]).output();
            let said = String::from_utf8(output.expect("it is there").stdout).expect("ASCII");
            let (_, hardware) = said.split_once("lladdr ")?;
            hardware.split(' ').next().map(str::to_owned)
        });
        let place = format!("lladdr {hardware} dev near{}", self.number);
        tell(&format!("neighbour replace {far} {place} nud permanent"));
        self.tell("address flush dev far");
    }

    /// Tells `ip` this in the client's network.
    fn tell(&self, words: &str) {
        let process = self.curl.id().to_string();
        run(Command::new("nsenter").args(["-n", "-t", &process, "ip"]).args(words.split(' ')));
    }
}

/// Tells `ip` this in the test's network.
fn tell(words: &str) {
    run(Command::new("ip").args(words.split(' ')));
}

fn run(command: &mut Command) {
    let output = command.output().expect("it is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
