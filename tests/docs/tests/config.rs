//! Every field of every config is described, and every number has a limit that is enforced.

use std::path::PathBuf;

use holdfast_docs::config_page::examples;
use holdfast_docs::program::{Program, ProgramError};
use holdfast_docs::schema::{Field, Section, sections};

/// Numbers that may be as large as they come, and why.
const UNLIMITED: &[(&str, &str, &str)] = &[];

#[test]
fn the_examples_are_valid() {
    for program in Program::all().expect("built") {
        for file in examples(program.name) {
            program.check(&file, None).expect("valid");
        }
    }
}

#[test]
fn a_wrong_file_or_override_ends_with_a_word_on_it() {
    for program in Program::all().expect("built") {
        let file = examples(program.name).remove(0);
        for (set, told) in [
            ("nonsense=1", "unknown field `nonsense`"),
            ("http_listen=fd00::1:7001", "put IPv6 addresses in brackets"),
            ("http_listen=", "missing field `http_listen`"),
            ("http_listen", "FIELD=VALUE is expected"),
        ] {
            let said = refusal(program.check(&file, Some(set)));
            assert!(said.contains(told), "{} --set {set}: {said}", program.name);
        }
        let said = refusal(program.check(&file.with_file_name("missing.toml"), None));
        assert!(said.contains("missing.toml"), "{said}");
    }
}

#[test]
fn every_field_is_described() {
    for program in Program::all().expect("built") {
        for section in sections(&program.schema().expect("a schema")) {
            let name = format!("{}: [{}]", program.name, section.path);
            assert!(!section.about.is_empty(), "{name} has no doc comment");
            for field in &section.fields {
                assert!(!field.help.is_empty(), "{name} {} has no doc comment", field.name);
            }
        }
    }
}

#[test]
fn every_number_has_the_limits_that_it_is_said_to_have() {
    let mut wrong = Vec::new();
    for program in Program::all().expect("built") {
        for section in sections(&program.schema().expect("a schema")) {
            for field in section.fields.iter().filter(|field| field.is_number()) {
                wrong.extend(probe(&program, &section, field));
            }
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
}

/// What is wrong with the limits of one field.
fn probe(program: &Program, section: &Section, field: &Field) -> Vec<String> {
    let path = section.field_path(field);
    let name = format!("{} {path}", program.name);
    let Some(setting) = Setting::of(program, section, field) else {
        return vec![format!("{name}: no example in which it can be set")];
    };
    let mut wrong = Vec::new();
    let mut refused = |value: &str, why: &str| match setting.refused(program, value) {
        Some(said) if said.contains(&field.name) => {}
        Some(said) => wrong.push(format!("{name} = {value}: the field is not named: {said}")),
        None => wrong.push(format!("{name} = {value} is accepted, {why}")),
    };
    refused("-1", "though it is negative");
    let unlimited = UNLIMITED.iter().any(|(of, field, _)| *of == program.name && *field == path);
    if !unlimited {
        refused(&u64::MAX.to_string(), "so it has no limit");
    }
    if let Some((low, high)) = field.documented_bounds() {
        if let Some(above) = high.checked_add(1) {
            refused(&above.to_string(), &format!("though at most {high} is documented"));
        }
        if let Some(below) =
            low.checked_sub(1).filter(|below| *below > 0 || !zero_is_special(field))
        {
            refused(&below.to_string(), &format!("though at least {low} is documented"));
        }
    }
    wrong
}

/// Fields whose 0 switches something off, or means a default, beside their range.
fn zero_is_special(field: &Field) -> bool {
    field.help.contains("0:")
}

/// How one field is set over an example.
struct Setting {
    file: PathBuf,
    before: String,
    after: &'static str,
}

impl Setting {
    /// In the first example that is valid with the field's own default, or with some number.
    fn of(program: &Program, section: &Section, field: &Field) -> Option<Setting> {
        let low = field.documented_bounds().map(|(low, _)| low.to_string());
        let value =
            field.default.as_ref().map(ToString::to_string).or(low).unwrap_or("1000".into());
        let settings = examples(program.name).into_iter().map(|file| match section.list {
            // The other fields of a list's entry are given with it.
            true => Setting {
                file,
                before: format!("{}=[{{filter = \"a\", {} = ", section.path, field.name),
                after: "}]",
            },
            false => Setting { file, before: format!("{}=", section.field_path(field)), after: "" },
        });
        settings.into_iter().find(|setting| setting.refused(program, &value).is_none())
    }

    fn refused(&self, program: &Program, value: &str) -> Option<String> {
        let set = format!("{}{value}{}", self.before, self.after);
        program.check(&self.file, Some(&set)).err().map(said)
    }
}

fn refusal(checked: Result<(), ProgramError>) -> String {
    said(checked.expect_err("refused"))
}

fn said(error: ProgramError) -> String {
    match error {
        ProgramError::Refused { said, .. } => said,
        other => panic!("{other}"),
    }
}
