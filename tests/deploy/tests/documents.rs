//! What the documents of deploy/ say is there: commands and their options, files, sections, alerts, metrics.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use holdfast_deploy::tools::{root, run, said};
use holdfast_e2e::cluster::program;

const DOCUMENTS: [&str; 4] = [
    "deploy/README.md",
    "deploy/OPERATIONS.md",
    "deploy/compose.yaml",
    "helm/holdfast/files/alerts.yaml",
];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Everything between backquotes, and lines of code blocks.
fn code(text: &str) -> Vec<String> {
    let (mut found, mut is_block) = (Vec::new(), false);
    // What is quoted may go on in the next line.
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            found.push(line.split('#').next().unwrap_or_default().trim().to_owned());
        } else {
            prose.push_str(line.trim());
            prose.push(' ');
        }
    }
    found.extend(prose.split('`').skip(1).step_by(2).map(str::to_owned));
    found
}

/// The commands of `holdfast` in a document, without the name.
fn commands(document: &str) -> BTreeSet<Vec<String>> {
    let code = code(&read(document));
    let commands = code.iter().filter_map(|code| {
        let at = code.find("run --rm holdfast ").map(|at| at + "run --rm ".len());
        code.get(at.unwrap_or(0)..)?.strip_prefix("holdfast ")
    });
    let words =
        |command: &str| command.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
    commands.map(words).collect()
}

#[test]
fn every_command_is_one_of_holdfast() {
    let mut checked = 0;
    for document in DOCUMENTS {
        for words in commands(document) {
            let is_name = |word: &&String| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let path: Vec<&String> = words
                .iter()
                .take_while(|word| is_name(word) && !word.starts_with('-'))
                .take(2)
                .collect();
            if path.is_empty() {
                continue;
            }
            let output = run(Command::new(program("holdfast")).args(&path).arg("--help"));
            assert!(output.status.success(), "{document}: holdfast {words:?}: {}", said(&output));
            let help = said(&output);
            assert!(
                help.contains(&format!("Usage: holdfast {}", path[0])),
                "{document}: {words:?}: {help}"
            );
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(
                    help.contains(option.as_str()),
                    "{document}: holdfast {words:?} has no {option}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 25, "only {checked} commands were found");
}

#[test]
fn links_lead_somewhere() {
    for document in ["deploy/README.md", "deploy/OPERATIONS.md"] {
        for link in read(document).split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = if path.is_empty() { document.to_owned() } else { format!("deploy/{path}") };
            assert!(root().join(&path).is_file(), "{document}: {link}");
            let headings: Vec<String> = read(&path)
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
                .collect();
            assert!(
                anchor.is_empty() || headings.iter().any(|one| one == anchor),
                "{document}: {link}"
            );
        }
    }
}

#[test]
fn every_config_field_that_is_named_exists() {
    let mut schemas = String::new();
    for name in ["broker-node", "meta-service", "storage-node"] {
        schemas += &said(&run(Command::new(program(name)).arg("--print-config-schema")));
    }
    for document in ["deploy/README.md", "deploy/OPERATIONS.md"] {
        for code in code(&read(document)) {
            let (section, field) = code.split_once('.').unwrap_or(("", &code));
            let is_section =
                ["mqtt", "cluster", "shard", "log", "retention", "raft", "admin", "etcd"]
                    .contains(&section);
            let field = field.split([' ', '=']).next().unwrap();
            let is_field = field.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let has_unit =
                ["_ms", "_s", "_max", "_percent", "_bytes"].iter().any(|end| field.ends_with(end));
            if is_field && (is_section || (section.is_empty() && has_unit)) {
                assert!(schemas.contains(&format!("\"{field}\"")), "{document}: no field {code}");
            }
        }
    }
}

/// Sizes of the table, as the command computes them from the same constants.
#[test]
fn sizes_are_those_that_the_command_computes() {
    let readme = read("deploy/README.md");
    for (rate, sessions) in [("1k", "100k"), ("10k", "1M")] {
        let mut capacity = Command::new(program("holdfast"));
        capacity.args(["capacity", "--rate", rate, "--sessions", sessions]);
        let told = said(&run(&mut capacity));
        let fact = |title: &str| {
            let line = told.lines().find(|line| line.trim_start().starts_with(title)).unwrap();
            line.trim_start()[title.len()..].split(':').next().unwrap().trim().to_owned()
        };
        let disk = fact("disk of each").split('.').next().unwrap().parse::<f64>().unwrap();
        let row = |value: &str| {
            readme.lines().any(|line| line.starts_with("| 1") && line.contains(value))
        };
        assert!(row(&fact("storage nodes")), "{told}");
        assert!(row(&format!("{disk} GiB")) || row(&format!("{} GiB", disk + 1.0)), "{told}");
    }
}
