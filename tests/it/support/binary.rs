//! Conjoin: the real binary as a process, and readers of what it leaves behind.

use super::oracle::Row;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `ready` gives something.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for the end of a process. One that does not end is killed, and the test fails with what each of its threads waits for.
pub fn ended(child: &mut Child, said: impl Fn() -> String) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() >= DEADLINE {
            let waits = threads(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("still running after {DEADLINE:?}; threads: {waits}; it said:\n{}", said());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The threads of a process, and where in the kernel each of them waits.
fn threads(process: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let of = |task: &Path, what: &str| fs::read_to_string(task.join(what)).unwrap_or_default().trim().to_owned();
    let told = tasks.map(|task| format!("{} ({})", of(&task.path(), "comm"), of(&task.path(), "wchan")));
    told.collect::<Vec<_>>().join(", ")
}

/// A process whose output goes to files, so that nobody has to read along.
pub struct Begun {
    pub child: Child,
    folder: tempfile::TempDir,
}

impl Begun {
    pub fn new(command: &mut Command) -> Begun {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Begun { child: command.spawn().expect("the binary starts"), folder }
    }

    pub fn end(mut self) -> Output {
        let said = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        let status = ended(&mut self.child, || String::from_utf8_lossy(&said("err")).into_owned());
        Output { status, stdout: said("out"), stderr: said("err") }
    }
}

/// `Command::output` with an end.
pub fn output(command: &mut Command) -> Output {
    Begun::new(command).end()
}

/// A run of the binary; dropping it kills it.
pub struct Conjoin {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Conjoin {
    /// `conjoin run` in `folder`, with what it says in files named after `name`.
    pub fn run(folder: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::run_with(folder, name, arguments, "")
    }

    /// The same with `CONJOIN_FAILPOINT` set; one that slows reading down has pipelines that ask for it fetch little at once.
    pub fn run_with(folder: &Path, name: &str, arguments: &[&str], failpoint: &str) -> Self {
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let child = Command::new(env!("CARGO_BIN_EXE_conjoin"))
            .arg("run")
            .arg(folder.join("pipeline.yaml"))
            .args(arguments)
            .current_dir(folder)
            .env("RUST_LOG", "info")
            .env("CONJOIN_FAILPOINT", failpoint)
            .envs(
                failpoint
                    .contains("read:")
                    .then_some([("FETCH_BYTES", "1500"), ("FETCH_AHEAD", "1")])
                    .into_iter()
                    .flatten(),
            )
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .expect("the binary starts");
        Conjoin { child, stdout, stderr }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What the kernel says of its memory, in bytes: `VmRSS` is what it has now, `VmHWM` the most it had.
    pub fn memory(&self, field: &str) -> u64 {
        self.memory_if_running(field).expect("it runs")
    }

    /// The same of a process that may have ended.
    pub fn memory_if_running(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
    }

    /// CPU time that it took so far; of a process that may have ended.
    pub fn cpu_ms_if_running(&self) -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // User and system time, in hundredths of a second.
        Some((fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?) * 10)
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    #[expect(unsafe_code, reason = "std sends no signal but KILL")]
    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain system call on a child that was not waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Whether it has stopped itself at a failpoint.
    pub fn is_stopped(&mut self) -> bool {
        assert!(self.is_running(), "it ended instead:\n{}", self.errors());
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    }

    pub fn wait_until_stopped(&mut self) {
        wait_for("the process to stop itself", || self.is_stopped().then_some(()));
    }

    /// Waits for its end, which must be a failure, and takes what it said.
    pub fn failure(mut self) -> String {
        let status = self.wait();
        assert_eq!(status.code(), Some(1), "it said:\n{}", self.errors());
        self.errors()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let errors = &self.stderr;
        ended(&mut self.child, || fs::read_to_string(errors).unwrap())
    }

    /// Waits for its end, which must be a good one, and takes the line of JSON.
    pub fn summary(mut self) -> Value {
        let status = self.wait();
        assert!(status.success(), "{status}; it said:\n{}", self.errors());
        let text = fs::read_to_string(&self.stdout).unwrap();
        let summary: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
        assert_eq!(summary["violations"], 0, "{}", self.errors());
        summary
    }
}

impl Drop for Conjoin {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of the newest manifest; 0 before the first.
pub fn newest_manifest(folder: &Path) -> u64 {
    let mut newest = 0;
    for path in files(&folder.join("state/manifests"), "") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        newest = newest.max(name.parse().unwrap_or(0));
    }
    newest
}

/// All files of a folder and its folders whose names end so, as a plain glob sees them.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        // A file may be renamed or deleted between the listing and the look.
        let Ok(entry) = entry else { continue };
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if !hidden && path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The rows of all Parquet files of a folder.
pub fn rows(folder: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for path in files(folder, ".parquet") {
        rows.extend(file_rows(&path));
    }
    rows
}

pub fn file_rows(path: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
    for batch in reader.unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
        let batch: RecordBatch = batch.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let fields = batch.schema();
        let cells =
            |row| batch.columns().iter().zip(fields.fields()).map(move |(c, f)| (f.name().clone(), cell(c, row)));
        rows.extend((0..batch.num_rows()).map(|row| cells(row).collect::<Row>()));
    }
    rows
}

fn cell(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Int32 => json!(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => json!(array.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Timestamp(..) => json!(array.as_primitive::<TimestampMillisecondType>().value(row)),
        DataType::Binary => json!(array.as_binary::<i32>().value(row)),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| cell(&items, item)).collect()
        }
        other => panic!("a column of type {other}"),
    }
}
