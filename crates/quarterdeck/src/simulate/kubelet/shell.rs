//! What a command in a container would answer.

use k8s_openapi::api::core::v1::Pod;

use super::files::Files;

/// The end of a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

impl Outcome {
    fn said(text: impl AsRef<[u8]>) -> Self {
        Self { stdout: text.as_ref().to_vec(), ..Self::default() }
    }

    fn failed(code: i32, text: String) -> Self {
        Self { stderr: text.into_bytes(), code, ..Self::default() }
    }
}

/// What a command does with its input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Answers at once.
    Once(Vec<String>),
    /// Sends its input back.
    Echo,
    /// Runs each line of its input.
    Interactive,
    /// Unpacks its input, a tar archive, into a directory.
    Unpack(String),
}

impl Command {
    pub(super) fn of(words: &[String]) -> Self {
        let plain: Vec<&str> = words.iter().map(String::as_str).collect();
        match plain.as_slice() {
            [shell] if is_shell(shell) => Self::Interactive,
            ["cat"] | ["cat", "-"] => Self::Echo,
            ["tar", flags, "-", rest @ ..] if flags.contains('x') => {
                let at = rest.iter().position(|word| *word == "-C").and_then(|at| rest.get(at + 1));
                Self::Unpack((*at.unwrap_or(&"/")).to_owned())
            }
            _ => Self::Once(words.to_vec()),
        }
    }
}

fn is_shell(word: &str) -> bool {
    matches!(word.rsplit('/').next(), Some("sh" | "bash" | "ash"))
}

/// Runs a command that needs no input.
pub(super) fn run(words: &[String], pod: &Pod, container: &str, files: &Files) -> Outcome {
    let plain: Vec<&str> = words.iter().map(String::as_str).collect();
    match plain.as_slice() {
        [shell, flag, script, ..] if is_shell(shell) && flag.ends_with('c') => script_of(script, pod, container, files),
        [] => Outcome::default(),
        [command, arguments @ ..] => {
            let name = command.rsplit('/').next().unwrap_or(command);
            one(name, arguments, pod, container, files)
                .unwrap_or_else(|| Outcome::failed(127, format!("sh: {command}: not found\n")))
        }
    }
}

/// Runs the commands of a script, or of a line, one after the other; the last one's code counts.
pub(super) fn script_of(script: &str, pod: &Pod, container: &str, files: &Files) -> Outcome {
    let mut all = Outcome::default();
    for command in script.split([';', '\n']).flat_map(|part| part.split("&&")) {
        let words: Vec<String> =
            command.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned()).collect();
        if words.is_empty() {
            continue;
        }
        let outcome = run(&words, pod, container, files);
        all.stdout.extend(outcome.stdout);
        all.stderr.extend(outcome.stderr);
        all.code = outcome.code;
        if words[0] == "exit" {
            break;
        }
    }
    all
}

fn one(name: &str, arguments: &[&str], pod: &Pod, container: &str, files: &Files) -> Option<Outcome> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or("");
    let line = |text: &str| Outcome::said(format!("{text}\n"));
    Some(match (name, arguments) {
        ("true" | ":" | "sleep" | "sync", _) => Outcome::default(),
        ("false", _) => Outcome { code: 1, ..Outcome::default() },
        ("exit", [code, ..]) => Outcome { code: code.parse().unwrap_or(2), ..Outcome::default() },
        ("exit", []) => Outcome::default(),
        ("echo", words) => line(&words.join(" ")),
        ("hostname", _) => line(pod_name),
        ("whoami", _) => line("root"),
        ("pwd", _) => line("/"),
        ("id", _) => line("uid=0(root) gid=0(root) groups=0(root)"),
        ("uname", _) => line("Linux"),
        ("date", _) => line(&jiff::Timestamp::now().strftime("%a %b %e %H:%M:%S UTC %Y").to_string()),
        ("env" | "printenv", _) => Outcome::said(environment(pod, container)),
        ("ls", paths) => {
            let path = paths.iter().find(|path| !path.starts_with('-')).unwrap_or(&"/");
            list(path, files)
        }
        ("cat", paths) => cat(paths, files),
        ("test", [flag, path]) => {
            let holds = match *flag {
                "-d" => files.is_directory(path),
                "-f" => files.get(path).is_some(),
                _ => files.is_directory(path) || files.get(path).is_some(),
            };
            Outcome { code: i32::from(!holds), ..Outcome::default() }
        }
        ("tar", [flags, "-", paths @ ..]) if flags.contains('c') => {
            match paths.last().and_then(|path| files.pack(path)) {
                Some(archive) => Outcome::said(archive),
                None => {
                    let path = paths.last().unwrap_or(&"");
                    let text = format!("tar: {path}: Cannot stat: No such file or directory\n");
                    Outcome::failed(2, text)
                }
            }
        }
        _ => return None,
    })
}

fn environment(pod: &Pod, container: &str) -> String {
    let pod_name = pod.metadata.name.as_deref().unwrap_or("");
    let mut out = format!("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOSTNAME={pod_name}\n");
    let spec = pod.spec.iter().flat_map(|spec| &spec.containers).find(|spec| spec.name == container);
    for variable in spec.iter().flat_map(|spec| spec.env.iter().flatten()) {
        if let Some(value) = &variable.value {
            out.push_str(&format!("{}={value}\n", variable.name));
        }
    }
    out
}

fn list(path: &str, files: &Files) -> Outcome {
    if files.get(path).is_some() {
        return Outcome::said(format!("{path}\n"));
    }
    if !files.is_directory(path) {
        return Outcome::failed(1, format!("ls: {path}: No such file or directory\n"));
    }
    let mut names = files.list(path);
    if path.trim_matches('/').is_empty() {
        names.extend(["bin", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var"].map(str::to_owned));
        names.sort();
        names.dedup();
    }
    Outcome::said(names.iter().map(|name| format!("{name}\n")).collect::<String>())
}

fn cat(paths: &[&str], files: &Files) -> Outcome {
    let mut all = Outcome::default();
    for path in paths {
        match files.get(path) {
            Some(content) => all.stdout.extend_from_slice(content),
            None => {
                all.stderr.extend_from_slice(format!("cat: {path}: No such file or directory\n").as_bytes());
                all.code = 1;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let pod = serde_json::json!({"metadata": {"name": "web-0"},
            "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "b"}]}]}});
        serde_json::from_value(pod).expect("a pod")
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn commands_answer_as_a_container_would() {
        let run = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let outcome = run(&words, &pod(), "c", &Files::default());
            (String::from_utf8(outcome.stdout).unwrap(), String::from_utf8(outcome.stderr).unwrap(), outcome.code)
        };
        assert_eq!(run(&["hostname"]), ("web-0\n".into(), String::new(), 0));
        assert_eq!(run(&["sh", "-c", "echo \"a b\" && exit 3; echo c"]), ("a b\n".into(), String::new(), 3));
        assert_eq!(run(&["nope"]), (String::new(), "sh: nope: not found\n".into(), 127));
        assert!(run(&["env"]).0.ends_with("A=b\n"));
        assert_eq!(run(&["cat", "/x"]).2, 1);
        assert_eq!(run(&["test", "-d", "/tmp"]).2, 0);
    }

    #[test]
    fn commands_that_read_are_told_apart() {
        assert_eq!(Command::of(&words("cat")), Command::Echo);
        assert_eq!(Command::of(&words("/bin/sh")), Command::Interactive);
        assert_eq!(Command::of(&words("tar -xmf - -C /tmp")), Command::Unpack("/tmp".into()));
        assert_eq!(Command::of(&words("ls /")), Command::Once(words("ls /")));
    }
}
