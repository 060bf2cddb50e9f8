//! What a container would do, told from its command: `true`, `false`, `sleep N`, `exit N`, also inside `sh -c`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

/// How a container's process behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// Runs until it is told to stop.
    Serves,
    /// Ends by itself.
    Ends { after: Duration, code: i32 },
}

/// An init container that says nothing about itself is done at once.
pub(super) fn of_init_container(container: &Container) -> Program {
    match of_container(container) {
        Program::Serves => Program::Ends { after: Duration::ZERO, code: 0 },
        ends => ends,
    }
}

pub(super) fn of_container(container: &Container) -> Program {
    let words: Vec<&str> =
        container.command.iter().flatten().chain(container.args.iter().flatten()).map(String::as_str).collect();
    match words.as_slice() {
        [shell, flag, script, ..] if is_shell(shell) && flag.starts_with('-') && flag.ends_with('c') => {
            of_script(script)
        }
        words => of_words(words).unwrap_or(Program::Serves),
    }
}

fn is_shell(word: &str) -> bool {
    matches!(word.rsplit('/').next(), Some("sh" | "bash" | "ash"))
}

/// A script of known commands; anything else counts as done at once, unless it loops.
fn of_script(script: &str) -> Program {
    if script.contains("while ") || script.contains("sleep inf") || script.contains("tail -f") {
        return Program::Serves;
    }
    let (mut after, mut code) = (Duration::ZERO, 0);
    for command in script.split([';', '\n', '&']).map(str::trim).filter(|command| !command.is_empty()) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match of_words(&words) {
            Some(Program::Ends { after: more, code: result }) => {
                after += more;
                code = result;
                if words[0] == "exit" {
                    break;
                }
            }
            Some(Program::Serves) => return Program::Serves,
            None => code = 0,
        }
    }
    Program::Ends { after, code }
}

/// `None` when the command is not known.
fn of_words(words: &[&str]) -> Option<Program> {
    let (first, rest) = words.split_first()?;
    let ends = |after, code| Some(Program::Ends { after, code });
    match (first.rsplit('/').next().unwrap_or(first), rest) {
        ("true" | ":", _) => ends(Duration::ZERO, 0),
        ("false", _) => ends(Duration::ZERO, 1),
        ("echo" | "date" | "ls" | "hostname", _) => ends(Duration::ZERO, 0),
        ("exit", []) => ends(Duration::ZERO, 0),
        ("exit", [code, ..]) => ends(Duration::ZERO, code.parse().unwrap_or(1)),
        ("sleep", [time, ..]) => match seconds(time) {
            Some(time) => ends(time, 0),
            None => Some(Program::Serves),
        },
        _ => None,
    }
}

/// `5`, `0.5`, `5s`, `2m`, `1h`, `1d`; `None` for `infinity`.
fn seconds(text: &str) -> Option<Duration> {
    let (number, unit) = match text.char_indices().last()? {
        (at, 's') => (&text[..at], 1.0),
        (at, 'm') => (&text[..at], 60.0),
        (at, 'h') => (&text[..at], 3600.0),
        (at, 'd') => (&text[..at], 86400.0),
        _ => (text, 1.0),
    };
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(seconds: u64, code: i32) -> Program {
        Program::Ends { after: Duration::from_secs(seconds), code }
    }

    #[test]
    fn commands_tell_how_a_container_ends() {
        for (command, expected) in [
            (vec![], Program::Serves),
            (vec!["nginx", "-g", "daemon off;"], Program::Serves),
            (vec!["true"], ends(0, 0)),
            (vec!["/bin/false"], ends(0, 1)),
            (vec!["sleep", "30"], ends(30, 0)),
            (vec!["sleep", "1h"], ends(3600, 0)),
            (vec!["sleep", "infinity"], Program::Serves),
            (vec!["sh", "-c", "echo hi; sleep 2 && exit 3"], ends(2, 3)),
            (vec!["/bin/sh", "-c", "while true; do sleep 1; done"], Program::Serves),
        ] {
            let command: Vec<String> = command.into_iter().map(Into::into).collect();
            let container = Container { command: Some(command.clone()), ..Container::default() };
            assert_eq!(of_container(&container), expected, "{command:?}");
        }
        assert_eq!(of_init_container(&Container::default()), ends(0, 0));
    }
}
