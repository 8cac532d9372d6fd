//! Finds libpccl.so: in the folder that `PCCL_LIB_DIR` names, or where pkg-config says.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for variable in ["PCCL_LIB_DIR", "PKG_CONFIG", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={}", variable);
    }
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("DOCS_RS").is_some() {
        return;
    }
    let folder = match env::var_os("PCCL_LIB_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => from_pkg_config(),
    };
    if !folder.join("libpccl.so").exists() {
        panic!("there is no libpccl.so in {}, which PCCL_LIB_DIR or pkg-config named", folder.display());
    }
    let folder = folder.canonicalize().unwrap_or(folder);
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib=pccl");
    // Cargo gives these to the tests and examples of this crate only. Others find the folder in DEP_PCCL_LIB_DIR.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    println!("cargo:lib_dir={}", folder.display());
    // For the test that compares layouts with the header.
    let headers = folder.parent().unwrap_or(Path::new("/")).join("include");
    println!("cargo:rustc-env=PCCL_INCLUDE_DIR={}", headers.display());
}

fn from_pkg_config() -> PathBuf {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let advice = "install the library, and set PCCL_LIB_DIR to the folder that has libpccl.so, or PKG_CONFIG_PATH to \
                  the one that has pccl.pc";
    let answer = match Command::new(&program).args(["--print-errors", "--variable=libdir", "pccl"]).output() {
        Ok(answer) => answer,
        Err(error) => panic!("{} does not run ({}); {}", program.to_string_lossy(), error, advice),
    };
    let folder = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    if !answer.status.success() || folder.is_empty() {
        panic!("pkg-config does not know pccl: {}\n{}", String::from_utf8_lossy(&answer.stderr).trim(), advice);
    }
    PathBuf::from(folder)
}
