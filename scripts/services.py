#!/usr/bin/env python3
"""Services: a one-node Kafka (KRaft, from its jars), a Redis, a Postgres, an S3 server and a schema registry (Apicurio) on
free loopback ports, for tests, benches and play.

    services.py run CMD…   start all, run CMD with their addresses in the environment, stop all whatever happens
    services.py serve      start all, print the addresses, stop all at Ctrl-C
    services.py start      start all and leave them running; prints lines for `eval`
    services.py stop       stop what `start` left running
    services.py install    only fetch what is needed
    services.py brokers COUNT FOLDER
                           make the storage of a Kafka cluster in FOLDER and start nothing: prints one line of JSON per
                           broker, its address and the command that runs it, for tests that kill brokers

In:    KAFKA_BOOTSTRAP, REDIS_URL, POSTGRES_URL, S3_ENDPOINT, REGISTRY_URL: a service whose variable is set already is used as
       it is and never touched; S3_ENDPOINT wants S3_BUCKET, S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY beside it.
       CONJOIN_SERVICES: which to start, such as `kafka,redis`; the default is all.
       CONJOIN_CACHE: where downloads are kept (default: $XDG_CACHE_HOME/conjoin or ~/.cache/conjoin).
Out:   exit code of CMD; the data of the services lies in a temporary folder and goes with them.
Holds: a service counts as started when it answered a request, not when its port is open; every wait has a deadline.
       `run` and `serve` take all down even when killed themselves: the kernel is asked to.
Does not: keep data, secure anything, or listen beyond loopback.
"""

import base64
import ctypes
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

KAFKA_VERSION = os.environ.get("CONJOIN_KAFKA_VERSION", "4.3.0")
LOG4J_VERSION = "2.25.4"  # the one this Kafka asks for
VERSITYGW_VERSION = "v1.8.0"  # S3 over a folder; honours If-None-Match
APICURIO_VERSION = "3.0.9"  # the last that runs on Java 17
S3_BUCKET, S3_KEY, S3_SECRET = "conjoin", "conjoin", "conjoin-secret"
START_DEADLINE_S = 90
START_TRIES = 3

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>conjoin</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{log4j}</version></dependency>
  </dependencies>
</project>
"""

# Files next to the jars and not on the class path would be ignored: this one is named on the command line.
LOG4J = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""

SERVER = """process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},BEHIND://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},BEHIND://127.0.0.1:{front}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,BEHIND:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
log.retention.ms=-1
num.network.threads=2
num.io.threads=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor={copies}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""

# A broker that died is noticed in two seconds, and what it led is not given back to it.
CLUSTER = """auto.leader.rebalance.enable=false
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
replica.lag.time.max.ms=2000
"""

JAVA = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


class Failure(Exception):
    """Something a person has to fix; its text says how."""


def say(text):
    print(f"services: {text}", file=sys.stderr, flush=True)


def cache_folder():
    if folder := os.environ.get("CONJOIN_CACHE"):
        path = Path(folder)
    elif folder := os.environ.get("XDG_CACHE_HOME"):
        path = Path(folder) / "conjoin"
    else:
        path = Path(os.environ.get("HOME") or tempfile.gettempdir()) / ".cache" / "conjoin"
    path = path.absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name):
    """One process at a time installs; the others wait and then find it done."""
    with open(cache_folder() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- what must be on the machine ------------------------------------------------------------------------------------


def need(program, package, found=None):
    """Makes sure `program` is in PATH: by apt-get where we may, else by telling what to install."""
    found = found or (lambda: shutil.which(program))
    if found():
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    may = not sudo or (shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True).returncode == 0)
    if not shutil.which("apt-get") or not may:
        raise Failure(f"`{program}` is missing: install it (Debian and Ubuntu: apt-get install {package})")
    say(f"installing {package}")
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = [*sudo, "apt-get", "install", "-y", "--no-install-recommends", package]
    with locked("apt"):
        for command in ([*sudo, "apt-get", "update"], install):
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0 or not found():
        raise Failure(f"`apt-get install {package}` failed; install `{program}` by hand:\n{done.stdout[-2000:]}")


def postgres_folder():
    """Where Postgres' programs are: Debian keeps them out of PATH."""
    if program := shutil.which("postgres"):
        return Path(program).resolve().parent
    known = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return known[-1].parent if known else None


def need_postgres():
    if not postgres_folder():
        need("postgres", "postgresql", found=postgres_folder)
    return postgres_folder()


def kafka_jars():
    """The folder with Kafka's jars, downloaded once."""
    folder = cache_folder() / f"kafka-{KAFKA_VERSION}"
    with locked("kafka"):
        if (folder / "libs").is_dir():
            return folder
        need("mvn", "maven")
        say(f"downloading Kafka {KAFKA_VERSION} (45 MB, once)")
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="kafka-download-") as work:
            work = Path(work)
            (work / "pom.xml").write_text(POM.format(kafka=KAFKA_VERSION, log4j=LOG4J_VERSION))
            command = ["mvn", "-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime"]
            command.append(f"-DoutputDirectory={work / 'libs'}")
            done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0 or not (work / "libs").is_dir():
                raise Failure(f"Maven could not fetch Kafka {KAFKA_VERSION}:\n{done.stdout[-2000:]}")
            folder.mkdir(exist_ok=True)
            (work / "libs").rename(folder / "libs")
    return folder


def s3_server():
    """The S3 server's binary, built once."""
    folder = cache_folder() / f"versitygw-{VERSITYGW_VERSION}"
    with locked("versitygw"):
        if (folder / "versitygw").is_file():
            return folder / "versitygw"
        # Where Go's own installer puts it, which is not in everybody's PATH.
        go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
        if not go:
            need("go", "golang-go")
            go = "go"
        say(f"building an S3 server, versitygw {VERSITYGW_VERSION} (a few minutes, once)")
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="versitygw-build-") as work:
            env = dict(os.environ, GOBIN=work, CGO_ENABLED="0")
            module = f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW_VERSION}"
            command = [go, "install", "-ldflags", "-s -w", module]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode != 0:
                raise Failure(f"go could not build {module}:\n{done.stdout[-2000:]}")
            folder.mkdir(exist_ok=True)
            (Path(work) / "versitygw").rename(folder / "versitygw")
    return folder / "versitygw"


def registry_jar():
    """The schema registry, downloaded once: a jar with its libraries beside it."""
    folder = cache_folder() / f"apicurio-{APICURIO_VERSION}"
    jar = folder / f"apicurio-registry-app-{APICURIO_VERSION}-runner.jar"
    with locked("apicurio"):
        if jar.is_file():
            return jar
        need("mvn", "maven")
        say(f"downloading the schema registry Apicurio {APICURIO_VERSION} (110 MB, once)")
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="apicurio-download-") as work:
            artifact = f"io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:tar.gz:all"
            command = ["mvn", "-B", "-q", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={work}"]
            done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            archives = list(Path(work).glob("*.tar.gz"))
            if done.returncode != 0 or not archives:
                raise Failure(f"Maven could not fetch {artifact}:\n{done.stdout[-2000:]}")
            shutil.unpack_archive(archives[0], Path(work) / "unpacked", filter="data")
            (Path(work) / "unpacked").rename(folder)
    return jar


# What each service is told by, and so whether one is there already.
SERVICES = {
    "kafka": "KAFKA_BOOTSTRAP",
    "redis": "REDIS_URL",
    "postgres": "POSTGRES_URL",
    "s3": "S3_ENDPOINT",
    "registry": "REGISTRY_URL",
}


def wanted():
    """The services to start."""
    names = [name for name in os.environ.get("CONJOIN_SERVICES", ",".join(SERVICES)).split(",") if name]
    for name in names:
        if name not in SERVICES:
            raise Failure(f"CONJOIN_SERVICES names `{name}`; there are {', '.join(SERVICES)}")
    return [name for name in names if not os.environ.get(SERVICES[name])]


def install():
    names = wanted()
    if "redis" in names:
        need("redis-server", "redis-server")
    if "postgres" in names:
        need_postgres()
    if "kafka" in names:
        need("java", "default-jre-headless")
        kafka_jars()
    if "s3" in names:
        s3_server()
    if "registry" in names:
        need("java", "default-jre-headless")
        registry_jar()


# ---- processes ------------------------------------------------------------------------------------------------------


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent():
    """Runs in the new process: asks the kernel to kill it when the one that started it is gone."""
    if LIBC:
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def spawn(command, folder, name, detached, user=None):
    """A process in a session of its own, so that Ctrl-C reaches only us and we can end all of it."""
    with open(folder / f"{name}.log", "ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
            user=user, group=user and pwd.getpwnam(user).pw_gid, extra_groups=[] if user else None,
            preexec_fn=None if detached else die_with_parent,
        )


def receive(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise OSError("closed")
        data += part
    return data


def kafka_answers(port):
    """True when a Metadata request names a broker: then topics can be created and written."""
    request = struct.pack(">hhih", 3, 4, 1, 8) + b"services" + struct.pack(">ib", -1, 0)
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.settimeout(5)
        connection.sendall(struct.pack(">i", len(request)) + request)
        response = receive(connection, struct.unpack(">i", receive(connection, 4))[0])
    return struct.unpack(">i", response[8:12])[0] > 0  # after the correlation id and the throttle time


def redis_answers(port):
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.settimeout(5)
        connection.sendall(b"PING\r\n")
        return receive(connection, 5) == b"+PONG"


def postgres_answers(port):
    """True when it lets us in: while it starts it answers with an error."""
    body = struct.pack(">i", 196608) + b"user\0conjoin\0database\0postgres\0\0"
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.settimeout(5)
        connection.sendall(struct.pack(">i", len(body) + 4) + body)
        return receive(connection, 1) == b"R"


def s3_answers(port):
    """True when it answers at all: a request without a signature is refused."""
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.settimeout(5)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return receive(connection, 9) == b"HTTP/1.1 "


def registry_answers(port):
    """True when it lists its subjects: then schemas can be registered."""
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        connection.settimeout(5)
        request = "GET /apis/ccompat/v7/subjects HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        return receive(connection, 12) == b"HTTP/1.1 200"


def wait_until(answers, port, process, what, log):
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OSError(f"{what} ended with code {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            if answers(port):
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise OSError(f"{what} did not answer in {START_DEADLINE_S} s:\n{log.read_text(errors='replace')[-3000:]}")


def kafka_id():
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "a")


def kafka_cluster(count, folder, heap):
    """The storage of brokers that know each other: their ports, and the commands that run them."""
    ports = free_ports(4 * count)
    nodes = [(node + 1, *ports[4 * node : 4 * node + 4]) for node in range(count)]
    voters = ",".join(f"{node}@127.0.0.1:{controller}" for node, _, controller, *_ in nodes)
    brokers, first = [], None
    for node, port, controller, behind, front in nodes:
        data = folder / f"kafka-{port}"
        data.mkdir()
        server = SERVER.format(
            node=node,
            voters=voters,
            port=port,
            controller=controller,
            behind=behind,
            front=front,
            data=data / "log",
            copies=min(count, 3),
        )
        (data / "server.properties").write_text(server + (CLUSTER if count > 1 else ""))
        (data / "log4j2.properties").write_text(LOG4J)
        logging = f"-Dlog4j2.configurationFile={data / 'log4j2.properties'}"
        java = [*JAVA, f"-Xmx{heap}", logging, "-cp", f"{kafka_jars()}/libs/*"]
        if not first:
            first = data / "log"
            kafka_format(java, data / "server.properties")
        else:
            # What the tool would have written, without another JVM.
            shutil.copytree(first, data / "log")
            meta = data / "log" / "meta.properties"
            own = {"node.id": str(node), "directory.id": kafka_id()}
            lines = [line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line]
            meta.write_text("".join(f"{key}={own.get(key, value)}\n" for key, value in lines))
        # Clients of the second listener are told to come to `front`, where a test may stand and turn them away.
        behind = f"127.0.0.1:{front}>127.0.0.1:{behind}"
        brokers.append((port, [*java, "kafka.Kafka", str(data / "server.properties")], behind))
    return brokers


def kafka_format(java, properties):
    form = [*java, "kafka.tools.StorageTool", "format", "-t", kafka_id(), "-c", str(properties)]
    done = subprocess.run(form, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        old = "UnsupportedClassVersionError" in done.stdout
        hint = "it needs Java 17 or newer in PATH. " if old else ""
        raise Failure(f"Kafka could not format its storage: {hint}\n{done.stdout[-3000:]}")


class Services:
    def __init__(self, detached=False):
        self.detached = detached
        self.processes = []
        self.environment = {}
        owner = "started" if detached else os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix=f"conjoin-services-{owner}-"))

    def start(self):
        install()
        began = time.monotonic()
        begins = {"kafka": self.begin_kafka, "redis": self.begin_redis, "postgres": self.begin_postgres}
        begins |= {"s3": self.begin_s3, "registry": self.begin_registry}
        begun = [(begins[name], begins[name]()) for name in wanted()]
        for begin, started in begun:
            for left in reversed(range(START_TRIES)):
                name, process, port, answers, address = started
                try:
                    wait_until(answers, port, process, name, self.folder / f"{name}.log")
                except OSError as error:
                    self.end(process)
                    if not left:
                        raise Failure(str(error)) from None
                    started = begin()  # another program may have taken the port in between: try others
                else:
                    self.environment.update(address)
                    break
        if self.environment:
            say(f"ready in {time.monotonic() - began:.1f} s: {' '.join(f'{k}={v}' for k, v in self.environment.items())}")

    def keep(self, process):
        self.processes.append(process)
        return process

    def begin_redis(self):
        (port,) = free_ports(1)
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = self.keep(spawn(command, self.folder, "redis", self.detached))
        return "redis", process, port, redis_answers, {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}

    def begin_postgres(self):
        """Trusts whoever comes. It does not run as root: there it becomes another user."""
        (port,) = free_ports(1)
        data, user = self.folder / f"postgres-{port}", None
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            names = [entry.pw_name for entry in pwd.getpwall()]
            user = next(name for name in ("postgres", "nobody") if name in names)
            os.chmod(self.folder, 0o711)
            shutil.chown(data, user)
        programs = need_postgres()
        initialise = [str(programs / "initdb"), "-D", str(data), "-U", "conjoin", "-A", "trust", "-E", "UTF8"]
        initialise += ["--locale=C", "--no-sync"]
        group = user and pwd.getpwnam(user).pw_gid
        done = subprocess.run(
            initialise, cwd=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            user=user, group=group, extra_groups=[] if user else None,
        )
        if done.returncode != 0:
            raise Failure(f"Postgres could not make its storage:\n{done.stdout[-2000:]}")
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", ""]
        process = self.keep(spawn([*command, "-F"], self.folder, "postgres", self.detached, user))
        address = {"POSTGRES_URL": f"postgres://conjoin@127.0.0.1:{port}/postgres"}
        return "postgres", process, port, postgres_answers, address

    def begin_s3(self):
        (port,) = free_ports(1)
        data = self.folder / f"s3-{port}"
        (data / S3_BUCKET).mkdir(parents=True)
        keys = ["--access", S3_KEY, "--secret", S3_SECRET]
        command = [str(s3_server()), *keys, "--port", f"127.0.0.1:{port}", "--quiet", "posix", str(data)]
        process = self.keep(spawn(command, self.folder, "s3", self.detached))
        address = {"S3_ENDPOINT": f"http://127.0.0.1:{port}", "S3_BUCKET": S3_BUCKET}
        address |= {"S3_ACCESS_KEY_ID": S3_KEY, "S3_SECRET_ACCESS_KEY": S3_SECRET}
        return "s3", process, port, s3_answers, address

    def begin_registry(self):
        """In memory; the Confluent API is below /apis/ccompat/v7."""
        (port,) = free_ports(1)
        settings = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}", "-Dquarkus.http.access-log.enabled=false"]
        process = self.keep(spawn([*JAVA, "-Xmx384m", *settings, "-jar", str(registry_jar())], self.folder, "registry", self.detached))
        return "registry", process, port, registry_answers, {"REGISTRY_URL": f"http://127.0.0.1:{port}/apis/ccompat/v7"}

    def begin_kafka(self):
        ((port, command, behind),) = kafka_cluster(1, self.folder, "512m")
        process = self.keep(spawn(command, self.folder, "kafka", self.detached))
        address = {"KAFKA_BOOTSTRAP": f"127.0.0.1:{port}", "KAFKA_BEHIND": behind}
        return "kafka", process, port, kafka_answers, address

    def end(self, process):
        """Kills at once: what a service still holds is thrown away anyway."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()

    def stop(self):
        for process in self.processes:
            self.end(process)
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- commands -------------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """INT, TERM or HUP came."""

    def __init__(self, number):
        self.number = number


def on_signal(number, _frame):
    raise Stopped(number)


def sweep():
    """Removes folders of runs that were killed before they could; where no /proc tells who lives, none."""
    for folder in Path(tempfile.gettempdir()).glob("conjoin-services-*"):
        owner = folder.name.split("-")[2]
        if owner.isdigit() and Path("/proc/self").exists() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def state_file():
    return cache_folder() / "services.json"


def run(command):
    services = Services()
    child = None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        services.start()
        child = subprocess.Popen(command, env={**os.environ, **services.environment})
        code = child.wait()
        return code if code >= 0 else 128 - code
    except Stopped as stopped:
        if child and child.poll() is None:
            child.send_signal(stopped.number)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
        return 128 + stopped.number
    except FileNotFoundError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        services.stop()


def serve():
    """Runs nothing: prints the addresses and waits for a signal."""
    names = [*SERVICES.values(), "S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"]
    lines = "; ".join(f'echo "export {name}=${name}"' for name in names)
    show = f'echo; {lines}; echo; echo "Ctrl-C stops them."; exec sleep 2147483647'
    return run(["sh", "-c", show])


def start():
    if state_file().exists():
        stop()
    services = Services(detached=True)
    try:
        services.start()
    except BaseException:
        services.stop()
        raise
    pids = [process.pid for process in services.processes if process.poll() is None]
    state_file().write_text(json.dumps({"folder": str(services.folder), "pids": pids}))
    for name, value in services.environment.items():
        print(f"export {name}={value}")
    return 0


def stop():
    try:
        state = json.loads(state_file().read_text())
    except (OSError, ValueError):
        say("nothing was started")
        return 0
    for pid in state["pids"]:
        try:
            # A number may have been given to another process since: ours still works in our folder, or below it.
            if Path(state["folder"]) in [at := Path(os.readlink(f"/proc/{pid}/cwd")), *at.parents]:
                os.killpg(pid, signal.SIGKILL)
        except OSError:
            pass
    shutil.rmtree(state["folder"], ignore_errors=True)
    state_file().unlink(missing_ok=True)
    return 0


def main(arguments):
    sweep()
    match arguments:
        case ["run", *command] if command:
            return run(command)
        case ["serve"]:
            return serve()
        case ["start"]:
            return start()
        case ["stop"]:
            return stop()
        case ["install"]:
            install()
            return 0
        case ["brokers", count, folder] if count.isdigit() and int(count):
            need("java", "default-jre-headless")
            for port, command, _ in kafka_cluster(int(count), Path(folder).absolute(), "256m"):
                print(json.dumps({"address": f"127.0.0.1:{port}", "command": command}))
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        say(str(failure))
        sys.exit(1)
