//! Whole files: the shipped pipelines are sound, and plans say what the files say.

use super::*;
use std::path::Path as FilePath;

fn options<'a>() -> LoadOptions<'a> {
    LoadOptions { overlays: &[], sets: &[], env: &|_| None, cores: 2 }
}

#[test]
fn every_shipped_pipeline_is_sound() {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            seen += 1;
            if let Err(errors) = load(std::slice::from_ref(&path), &options()) {
                panic!("{}:\n{errors}", path.display());
            }
        }
    }
    assert!(seen >= 3);
}
