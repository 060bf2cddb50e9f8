//! What the binary says before it does anything.

use std::process::{Command, Output};

fn quarterdeck(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quarterdeck")).args(args).output().expect("the binary runs")
}

#[test]
fn version_names_the_api_it_serves() {
    let output = quarterdeck(&["version"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("quarterdeck v{} (Kubernetes v1.36.2)\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unknown_flag_is_refused_by_name() {
    let output = quarterdeck(&["server", "--egress-selector-config-file", "/dev/null"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("unexpected argument '--egress-selector-config-file'"), "{text}");
}

#[test]
fn an_api_server_without_a_store_says_what_is_missing() {
    let output = quarterdeck(&[
        "apiserver",
        "--tls-cert-file=x",
        "--tls-private-key-file=x",
        "--client-ca-file=x",
        "--service-account-signing-key-file=x",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--etcd-servers is required"), "{text}");
}
