//! Cluster: small Kafka brokers of one test's own, to be killed and started again.

use super::binary::{output, wait_for};
use super::kafka::KafkaProducer;
use serde_json::Value;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct Cluster {
    folder: TempDir,
    brokers: Vec<Broker>,
}

struct Broker {
    address: String,
    command: Vec<String>,
    process: Option<Child>,
}

impl Cluster {
    /// Brokers with the ids 1 to `count`.
    pub fn start(count: usize) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services.py");
        let made = output(Command::new(script).args(["brokers", &count.to_string()]).arg(folder.path()));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = String::from_utf8(made.stdout).unwrap();
        let broker = |line: &str| {
            let told: Value = serde_json::from_str(line).unwrap();
            let words = told["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned());
            Broker { address: told["address"].as_str().unwrap().to_owned(), command: words.collect(), process: None }
        };
        let mut cluster = Cluster { folder, brokers: text.lines().map(broker).collect() };
        for id in 1..=count {
            cluster.revive(id as i32);
        }
        cluster
    }

    pub fn addresses(&self) -> String {
        self.brokers.iter().map(|broker| broker.address.as_str()).collect::<Vec<_>>().join(",")
    }

    pub fn wait_until_up(&self, kafka: &KafkaProducer) {
        wait_for("the brokers", || (kafka.brokers_up() == self.brokers.len()).then_some(()));
    }

    /// kill -9.
    pub fn kill(&mut self, id: i32) {
        let mut process = self.brokers[id as usize - 1].process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    #[expect(unsafe_code, reason = "the kernel is asked to take the broker down with the test, however that ends")]
    pub fn revive(&mut self, id: i32) {
        let said = File::create(self.folder.path().join(format!("{id}.out"))).unwrap();
        let broker = &mut self.brokers[id as usize - 1];
        let mut command = Command::new(&broker.command[0]);
        command.args(&broker.command[1..]).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(said.try_clone().unwrap()).stderr(said);
        // SAFETY: a plain system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        broker.process = Some(command.spawn().expect("java starts"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for mut process in self.brokers.iter_mut().filter_map(|broker| broker.process.take()) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
