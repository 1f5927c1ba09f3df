//! The chart, rendered by helm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::live::Live;
use crate::tools::{root, run, said, tool};

/// A major version of helm; users have both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helm {
    /// helm 3
    Three,
    /// helm 4
    Four,
}

impl Helm {
    /// Both.
    pub const ALL: [Helm; 2] = [Helm::Three, Helm::Four];

    fn command(self) -> Command {
        Command::new(tool(match self {
            Helm::Three => "helm3/helm",
            Helm::Four => "helm4/helm",
        }))
    }
}

/// What to render.
#[derive(Debug, Clone)]
pub struct Rendering {
    /// For people: which values these are.
    pub name: String,
    release: String,
    namespace: String,
    files: Vec<PathBuf>,
    sets: Vec<String>,
    is_upgrade: bool,
    live: Option<String>,
    api_versions: Vec<String>,
    chart: PathBuf,
}

/// The folder of the chart.
pub fn folder() -> PathBuf {
    root().join("helm/holdfast")
}

impl Rendering {
    /// The chart's defaults.
    pub fn defaults() -> Rendering {
        Rendering {
            name: "defaults".to_owned(),
            release: "rel".to_owned(),
            namespace: "default".to_owned(),
            files: Vec::new(),
            sets: Vec::new(),
            is_upgrade: false,
            live: None,
            api_versions: Vec::new(),
            chart: folder(),
        }
    }

    /// With a values file of the chart's folder.
    pub fn of(file: &str) -> Rendering {
        let mut rendering = Rendering::defaults();
        let path = folder().join(file);
        rendering.name = path.file_stem().unwrap().to_string_lossy().into_owned();
        rendering.files.push(path);
        rendering
    }

    /// Every preset, example and ci file.
    pub fn all() -> Vec<Rendering> {
        let mut files = Vec::new();
        for (place, of_values) in [("", "values-"), ("examples", ""), ("ci", "")] {
            let names = fs::read_dir(folder().join(place)).unwrap();
            let names =
                names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
            let wanted =
                names.filter(|name| name.starts_with(of_values) && name.ends_with(".yaml"));
            files.extend(wanted.map(|name| Path::new(place).join(name)));
        }
        files.sort();
        assert!(files.len() >= 10, "{files:?}");
        files.iter().map(|file| Rendering::of(&file.to_string_lossy())).collect()
    }

    /// With other values.
    #[must_use]
    pub fn set(mut self, sets: &[&str]) -> Rendering {
        self.sets.extend(sets.iter().map(|&set| set.to_owned()));
        self
    }

    /// As another release.
    #[must_use]
    pub fn release(mut self, release: &str) -> Rendering {
        release.clone_into(&mut self.release);
        self
    }

    /// With another chart: a folder, or an archive.
    #[must_use]
    pub fn at(mut self, chart: &Path) -> Rendering {
        chart.clone_into(&mut self.chart);
        self
    }

    /// As an upgrade of a release, which hooks may belong to.
    #[must_use]
    pub fn upgrade(mut self) -> Rendering {
        self.is_upgrade = true;
        self
    }

    /// As an upgrade of a release that runs, which templates look up.
    #[must_use]
    pub fn over(mut self, live: &Live) -> Rendering {
        self.live = Some(live.url.clone());
        self.upgrade()
    }

    /// On a Kubernetes cluster that is known to have these APIs.
    #[must_use]
    pub fn with_apis(mut self, versions: &[&str]) -> Rendering {
        self.api_versions.extend(versions.iter().map(|&version| version.to_owned()));
        self
    }

    fn command(&self, helm: Helm, what: &str) -> Command {
        let mut command = helm.command();
        command.arg(what);
        if what == "template" {
            command.arg(&self.release);
            command.args(self.is_upgrade.then_some("--is-upgrade"));
            command.args(self.api_versions.iter().flat_map(|version| ["--api-versions", version]));
            if let Some(url) = &self.live {
                command.args([
                    "--dry-run=server",
                    "--disable-openapi-validation",
                    "--kube-apiserver",
                    url,
                ]);
            }
        }
        command.arg(&self.chart).args(["--namespace", &self.namespace]);
        command.args(self.files.iter().flat_map(|file| [Path::new("--values"), file]));
        command.args(self.sets.iter().flat_map(|set| ["--set", set]));
        command
    }

    /// The manifests, or what helm says against the values. A password that helm drew is not in it: no two
    /// renderings have the same.
    pub fn template(&self, helm: Helm) -> Result<String, String> {
        let output = run(&mut self.command(helm, "template"));
        if !output.status.success() {
            return Err(said(&output));
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let drawn = |line: &str| line.starts_with("  \"password\": \"") && line.len() > 50;
        let lines = text
            .lines()
            .map(|line| if drawn(line) { "  \"password\": \"ZHJhd24=\"" } else { line });
        Ok(lines.flat_map(|line| [line, "\n"]).collect())
    }

    /// The manifests by helm 3, which must be possible.
    pub fn text(&self) -> String {
        self.template(Helm::Three).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// `helm package`: the archive, in this folder.
    pub fn package(helm: Helm, to: &Path) -> PathBuf {
        let output = run(helm.command().arg("package").arg(folder()).arg("--destination").arg(to));
        assert!(output.status.success(), "{}", said(&output));
        let mut made = fs::read_dir(to).unwrap().map(|entry| entry.unwrap().path());
        made.find(|path| path.extension().is_some_and(|name| name == "tgz")).unwrap()
    }

    /// `helm lint --strict`: what it says, if it finds anything.
    pub fn lint(&self, helm: Helm) -> Result<(), String> {
        let output = run(self.command(helm, "lint").args(["--strict", "--quiet"]));
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    }
}
