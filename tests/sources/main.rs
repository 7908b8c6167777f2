//! The sources of all crates of the workspace, read as they are written: no root, no service.

mod circles;
mod imports;

use std::error::Error;
use std::path::Path;
use std::process::Command;

use imports::Import;

/// The roots of all programs, libraries and tests of the workspace: the name of each, and its file.
fn roots() -> Result<Vec<(String, String)>, Box<dyn Error>> {
    #[expect(clippy::disallowed_methods, reason = "cargo is asked, not a service started")]
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout)?;
    let mut roots = Vec::new();
    for package in metadata["packages"].as_array().ok_or("no packages")? {
        for target in package["targets"].as_array().ok_or("no targets")? {
            let name = target["name"].as_str().ok_or("no name")?.replace('-', "_");
            let file = target["src_path"].as_str().ok_or("no file")?;
            roots.push((name, file.to_owned()));
        }
    }
    Ok(roots)
}

fn found(imports: &[Import]) -> Vec<String> {
    circles::among(imports).into_iter().map(|circle| circle.to_string()).collect()
}

#[test]
fn no_modules_import_each_other_in_a_circle() -> Result<(), Box<dyn Error>> {
    let mut all = Vec::new();
    for (name, file) in roots()? {
        all.extend(found(&imports::of(&name, Path::new(&file))?));
    }
    assert!(all.is_empty(), "modules beside each other import each other:\n{}", all.join("\n"));
    Ok(())
}

/// The circles of a crate of these files.
fn circles_of(files: &[(&str, &str)]) -> Result<Vec<String>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().ok_or("no folder")?)?;
        std::fs::write(file, text)?;
    }
    let all = found(&imports::of("krate", &folder.path().join("lib.rs"))?);
    let within = format!("{}/", folder.path().display());
    Ok(all.iter().map(|circle| circle.replace(&within, "")).collect())
}

#[test]
fn a_circle_is_told_with_the_file_and_line_of_each_step() -> Result<(), Box<dyn Error>> {
    let circles = circles_of(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "mod deep;"),
        ("a/deep.rs", "\nuse super::super::b::B;"),
        ("b.rs", "pub struct B; fn f() { vec![crate::c::f()]; }"),
        ("c/mod.rs", "pub fn f() -> crate::a::A {}"),
    ])?;
    let told = "in krate: a -> b -> c -> a\n    a/deep.rs:2\n    b.rs:1\n    c/mod.rs:1\n";
    assert_eq!(circles, [told]);
    Ok(())
}

#[test]
fn a_folder_and_what_is_in_it_are_no_circle() -> Result<(), Box<dyn Error>> {
    let circles = circles_of(&[
        ("lib.rs", "mod a; mod b; pub struct Root; use a::A;"),
        ("a/mod.rs", "mod inside; pub struct A; pub use self::inside::C;"),
        ("a/inside.rs", "use super::A; use crate::{Root, b::B}; pub struct C;"),
        ("b.rs", "pub struct B;"),
    ])?;
    assert_eq!(circles, [""; 0]);
    Ok(())
}

#[test]
fn tests_and_comments_may_name_any_module() -> Result<(), Box<dyn Error>> {
    let circles = circles_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "/// [`crate::a`]\npub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
    ])?;
    assert_eq!(circles, [""; 0]);
    Ok(())
}
