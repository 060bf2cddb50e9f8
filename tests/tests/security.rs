//! What an operator's review of security asks for: values sealed in the store, a log of who did what, fixed tokens and nobody
//! without credentials, and fairness among those who come.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use quarterdeck_tests::{Durable, Server, eventually, has_program};
use serde_json::Value;

const SEALED: &str = r#"
kind: EncryptionConfiguration
apiVersion: apiserver.config.k8s.io/v1
resources:
- resources: [secrets]
  providers:
  - aesgcm: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}
  - identity: {}
"#;
/// The way back: everything is read, and written in the clear.
const UNSEALED: &str = r#"
kind: EncryptionConfiguration
apiVersion: apiserver.config.k8s.io/v1
resources:
- resources: [secrets]
  providers:
  - identity: {}
  - aesgcm: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}
"#;
const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-controller-manager", "system:kube-scheduler", "system:apiserver"]
- level: None
  userGroups: ["system:serviceaccounts"]
- level: RequestResponse
  omitManagedFields: true
  resources: [{group: "", resources: [configmaps]}]
- level: Metadata
"#;

/// The stored bytes of a key, as etcdctl shows them.
fn stored(durable: &Durable, key: &str) -> Result<String> {
    let pki = durable.dir.path().join("pki");
    let output = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=https://127.0.0.1:{}", durable.store_port))
        .arg("--cacert")
        .arg(pki.join("store-ca.crt"))
        .arg("--cert")
        .arg(pki.join("store-client.crt"))
        .arg("--key")
        .arg(pki.join("store-client.key"))
        .args(["get", "--print-value-only", key])
        .output()
        .context("etcdctl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn secrets_are_sealed_in_the_store_and_a_changed_configuration_unseals_them() -> Result<()> {
    if !has_program("kubectl") || !has_program("etcdctl") {
        return Ok(());
    }
    let durable = Durable::new()?;
    let file = durable.dir.path().join("encryption.yaml");
    std::fs::write(&file, SEALED)?;
    let mut command = durable.command();
    command.arg("--encryption-provider-config").arg(&file).arg("--encryption-provider-config-automatic-reload");
    let server = Server::start(&mut command)?;
    server.kubectl_ok(&["create", "secret", "generic", "s", "--from-literal=a=hidden"])?;
    server.kubectl_ok(&["create", "configmap", "c", "--from-literal=a=open"])?;
    let sealed = stored(&durable, "/registry/secrets/default/s")?;
    assert!(sealed.starts_with("k8s:enc:aesgcm:v1:key1:"), "{sealed}");
    assert!(!sealed.contains("aGlkZGVu"), "{sealed}");
    assert!(stored(&durable, "/registry/configmaps/default/c")?.contains("open"));
    assert_eq!(server.kubectl_ok(&["get", "secret", "s", "-o=jsonpath={.data.a}"])?, "aGlkZGVu");

    // An update that changes nothing seals anew, or unseals.
    std::fs::write(&file, UNSEALED)?;
    let object = server.kubectl_ok(&["get", "secret", "s", "-o=json"])?;
    let opened = eventually("the secret is in the clear", || {
        server.kubectl_ok_stdin(&["replace", "-f", "-"], &object)?;
        let stored = stored(&durable, "/registry/secrets/default/s")?;
        Ok(stored.starts_with('{').then_some(stored))
    })?;
    assert!(opened.contains("aGlkZGVu"), "{opened}");
    Ok(())
}

/// Events of a log so far.
fn events(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn the_audit_log_says_who_did_what_and_how_it_ended() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("log").join("audit.log"));
    std::fs::write(&policy, POLICY)?;
    let mut command = Command::new(quarterdeck_tests::binary());
    command.args(["server", "--ephemeral", "--audit-policy-file"]).arg(&policy).arg("--audit-log-path").arg(&log);
    let server = Server::start(&mut command)?;
    server.kubectl_ok(&["create", "configmap", "c", "--from-literal=x=y"])?;
    server.kubectl_err(&["get", "configmap", "c", "--as=jane"], "")?;
    server.kubectl_ok(&["delete", "configmap", "c", "--wait=false"])?;
    let events = events(&log)?;
    let of = |verb: &str| {
        let found = events.iter().find(|event| event["verb"] == verb && event["objectRef"]["name"] == "c");
        found.cloned().with_context(|| format!("no event of {verb}"))
    };
    let created = of("create")?;
    assert_eq!(created["level"], "RequestResponse");
    assert_eq!(created["stage"], "ResponseComplete");
    assert_eq!(created["user"]["username"], "kubernetes-admin");
    assert_eq!(created["responseStatus"]["code"], 201);
    assert_eq!(created["requestObject"]["data"]["x"], "y");
    assert_eq!(created["responseObject"]["metadata"]["managedFields"], Value::Null);
    assert_eq!(created["annotations"]["authorization.k8s.io/decision"], "allow");
    let refused = of("get")?;
    assert_eq!(refused["impersonatedUser"]["username"], "jane");
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(of("delete")?["responseStatus"]["status"], "Success");
    Ok(())
}

#[tokio::test]
async fn fixed_tokens_are_users_and_nobody_comes_without_credentials() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let tokens = dir.path().join("tokens.csv");
    std::fs::write(&tokens, "secret-1,jane,7,\"dev,ops\"\n")?;
    let mut command = Command::new(quarterdeck_tests::binary());
    command.args(["server", "--ephemeral", "--anonymous-auth=false", "--token-auth-file"]).arg(&tokens);
    let server = Server::start(&mut command)?;
    let who = server.kubectl_ok(&["auth", "whoami", "-o=json"])?;
    assert!(who.contains("kubernetes-admin"), "{who}");
    let cluster =
        server.kubectl_ok(&["config", "view", "--raw", "--minify", "-o=jsonpath={.clusters[0].cluster.server}"])?;
    let as_token = |token: &str| {
        let bare = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--server", cluster.as_str()];
        let output = Command::new("kubectl")
            .args(bare)
            .arg(format!("--token={token}"))
            .args(["auth", "whoami", "-o=json"])
            .output();
        anyhow::Ok(output?)
    };
    let jane: Value = serde_json::from_slice(&as_token("secret-1")?.stdout)?;
    assert_eq!(jane["status"]["userInfo"]["username"], "jane");
    assert_eq!(jane["status"]["userInfo"]["groups"], serde_json::json!(["dev", "ops", "system:authenticated"]));
    let mut nobody = kube::Config::new(cluster.parse()?);
    nobody.accept_invalid_certs = true;
    let refused = kube::Client::try_from(nobody)?.apiserver_version().await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 401), "{refused:?}");
    Ok(())
}

/// kubectl speaks HTTP/2, where no header names the host.
#[test]
fn who_verifies_tokens_is_sent_to_the_address_of_the_server() -> Result<()> {
    if !has_program("kubectl") {
        return Ok(());
    }
    let server = Server::ephemeral()?;
    let url =
        server.kubectl_ok(&["config", "view", "--raw", "--minify", "-o=jsonpath={.clusters[0].cluster.server}"])?;
    let found: Value =
        serde_json::from_str(&server.kubectl_ok(&["get", "--raw", "/.well-known/openid-configuration"])?)?;
    assert_eq!(found["jwks_uri"], format!("{url}/openid/v1/jwks"));
    Ok(())
}
