//! podman with storage of its own, which ends with the value.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_deploy::tools::{root, run, said};
use holdfast_e2e::cluster::program;
use tempfile::TempDir;

/// What the Dockerfile makes by default.
pub(crate) const IMAGE: &str = "localhost/holdfast";
/// What is in it.
pub(crate) const PROGRAMS: [&str; 4] = ["broker-node", "meta-service", "storage-node", "holdfast"];

const BASE: &str = "localhost/base";
const BINARIES: &str = "localhost/binaries";

/// A place for images and containers.
#[derive(Debug)]
pub(crate) struct Podman {
    folder: TempDir,
}

impl Podman {
    /// None, and why, if there is no podman here and none could be installed.
    pub(crate) fn start() -> Option<Podman> {
        if let Ok(why) = fs::read_to_string(root().join("target/tools/podman.unavailable")) {
            eprintln!("SKIPPED: podman could not be installed: {why}");
            return None;
        }
        assert!(is_there("podman"), "podman is missing: run `make tools`");
        let podman = Podman { folder: TempDir::with_prefix("holdfast-podman-").unwrap() };
        podman.write_hosts("");
        // There is no right to raise limits here.
        let hosts = podman.path("hosts");
        let settings = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             base_hosts_file = \"{}\"\n",
            hosts.display()
        );
        fs::write(podman.path("containers.conf"), settings).unwrap();
        Some(podman)
    }

    /// Names that containers know.
    pub(crate) fn write_hosts(&self, lines: &str) {
        fs::write(self.path("hosts"), format!("127.0.0.1 localhost\n{lines}")).unwrap();
    }

    /// A file of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What podman prints; it must succeed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "podman {args:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// What podman says and how it ends.
    pub(crate) fn output(&self, args: &[&str]) -> Output {
        let mut podman = Command::new("podman");
        podman.env("CONTAINERS_CONF", self.path("containers.conf"));
        podman.arg("--root").arg(self.path("root")).arg("--runroot").arg(self.path("run"));
        podman.arg("--tmpdir").arg(self.path("tmp"));
        podman.args(["--runtime", "runc", "--cgroup-manager=cgroupfs"]);
        run(podman.args(args))
    }

    /// Runs a container of an image to its end, as the chart's are run.
    pub(crate) fn run_in(&self, image: &str, args: &[&str]) -> String {
        self.run(&[&AS_NOBODY[..], &[image], args].concat())
    }

    /// Runs a program of the image to its end.
    pub(crate) fn run_entry(&self, path: &str, args: &[&str]) -> String {
        self.run(&[&AS_NOBODY[..], &["--entrypoint", path, IMAGE], args].concat())
    }

    /// The same, which may fail.
    pub(crate) fn try_entry(&self, path: &str, args: &[&str]) -> Output {
        self.output(&[&AS_NOBODY[..], &["--entrypoint", path, IMAGE], args].concat())
    }

    /// Builds the image that holds all programs.
    pub(crate) fn build(&self) {
        self.build_target("holdfast", IMAGE);
    }

    /// Builds a target of the Dockerfile.
    pub(crate) fn build_target(&self, target: &str, tag: &str) {
        if !self.output(&["image", "exists", BASE]).status.success() {
            self.build_from(BASE, &self.base());
            self.build_from(BINARIES, &self.binaries());
        }
        let (from, dockerfile) = (root(), root().join("deploy/Dockerfile"));
        let (base, binaries) = (format!("BASE={BASE}"), format!("BINARIES={BINARIES}"));
        let arguments = [&base, &binaries, "VERSION=7.8.9", "REVISION=abcdef"];
        let mut build = vec!["build", "--quiet", "--pull=never", "--format=docker"];
        build.extend(arguments.iter().flat_map(|argument| ["--build-arg", argument]));
        build.extend(["--target", target, "--tag", tag]);
        build.extend(["--file", dockerfile.to_str().unwrap(), from.to_str().unwrap()]);
        self.run(&build);
    }

    /// An image with the files of a folder.
    fn build_from(&self, tag: &str, folder: &Path) {
        fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY root/ /\n").unwrap();
        self.run(&["build", "--quiet", "--tag", tag, folder.to_str().unwrap()]);
    }

    /// What the programs are linked to, and who nobody is.
    fn base(&self) -> PathBuf {
        let folder = self.path("base");
        let files = folder.join("root");
        fs::create_dir_all(files.join("etc")).unwrap();
        let nobody = "root:x:0:0::/:/none\nnonroot:x:65532:65532::/:/none\n";
        fs::write(files.join("etc/passwd"), nobody).unwrap();
        fs::write(files.join("etc/group"), "root:x:0:\nnonroot:x:65532:\n").unwrap();
        fs::write(files.join("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
        for name in PROGRAMS {
            let told = run(Command::new("ldd").arg(program(name)));
            let libraries = String::from_utf8_lossy(&told.stdout).into_owned();
            for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
                let copy = files.join(library.trim_start_matches('/'));
                fs::create_dir_all(copy.parent().unwrap()).unwrap();
                fs::copy(library, copy).unwrap();
            }
        }
        // Where a program's loader is and where the libraries are may be the same folder by two names.
        if files.join("lib64").is_dir() && !files.join("usr/lib64").exists() {
            fs::create_dir_all(files.join("usr")).unwrap();
            symlink("../lib64", files.join("usr/lib64")).unwrap();
        }
        folder
    }

    /// The programs, as the stage `build` leaves them.
    fn binaries(&self) -> PathBuf {
        let folder = self.path("binaries");
        let out = folder.join("root/out");
        fs::create_dir_all(out.join("bin")).unwrap();
        fs::create_dir_all(out.join("data")).unwrap();
        for name in PROGRAMS {
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o").arg(out.join("bin").join(name)).arg(program(name));
            let output = run(&mut strip);
            assert!(output.status.success(), "{}", said(&output));
        }
        folder
    }
}

/// How a container that runs to its end is run.
const AS_NOBODY: [&str; 6] = [
    "run",
    "--rm",
    "--network=none",
    "--read-only",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
];

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.output(&["pod", "rm", "--force", "--all", "--time", "0"]);
        let _ = self.output(&["rm", "--force", "--all", "--time", "0"]);
        let _ = self.output(&["unmount", "--all", "--force"]);
    }
}

/// Whether a program is in PATH.
pub(crate) fn is_there(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok()
        || Command::new(name).arg("-V").output().is_ok()
}
