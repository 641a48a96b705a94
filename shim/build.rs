//! Generates the messages in `proto/` (pure Rust, no protoc).

use std::path::PathBuf;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=proto/pod.proto");
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["proto/pod.proto"])
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default().gen_mod_rs(false))
        .run()
        .expect("proto/ holds valid definitions");
    // The generated file begins with inner attributes, which `include!` cannot take: include its declaration instead.
    let declaration = "#[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]\npub mod pod;\n";
    std::fs::write(out.join("modules.rs"), declaration).expect("OUT_DIR is writable");
}
