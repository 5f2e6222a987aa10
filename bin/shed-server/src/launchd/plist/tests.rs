//! The list as it is written, and as another reader of property lists understands it.

use std::{io::Write as _, process::Stdio};

use super::*;

fn agent() -> Agent {
    Agent {
        program: "/opt/homebrew/bin/shed-server".into(),
        config: Some("/Users/ann/.config/shed/server.yaml".into()),
        log: "/Users/ann/Library/Logs/shed-server.log".into(),
        data_home: None,
    }
}

#[test]
fn the_list_of_an_agent() {
    insta::assert_snapshot!(agent().text().unwrap(), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <!-- Written by `shed-server install`, which writes it anew; `shed-server uninstall` removes it. -->
    <!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
    <plist version="1.0">
    <dict>
      <key>Label</key>
      <string>dev.shed.server</string>
      <key>ProgramArguments</key>
      <array>
        <string>/opt/homebrew/bin/shed-server</string>
        <string>serve</string>
        <string>--config</string>
        <string>/Users/ann/.config/shed/server.yaml</string>
      </array>
      <key>EnvironmentVariables</key>
      <dict>
        <key>PATH</key>
        <string>/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin</string>
      </dict>
      <key>WorkingDirectory</key>
      <string>/</string>
      <key>StandardOutPath</key>
      <string>/Users/ann/Library/Logs/shed-server.log</string>
      <key>StandardErrorPath</key>
      <string>/Users/ann/Library/Logs/shed-server.log</string>
      <key>RunAtLoad</key>
      <true/>
      <key>KeepAlive</key>
      <dict><key>SuccessfulExit</key><false/></dict>
      <key>AbandonProcessGroup</key>
      <true/>
      <key>ProcessType</key>
      <string>Interactive</string>
      <key>ExitTimeOut</key>
      <integer>60</integer>
    </dict>
    </plist>
    "#);
}

#[test]
fn without_a_configuration_none_is_named_and_a_data_directory_is() {
    let text = Agent { config: None, data_home: Some("/Volumes/big".into()), ..agent() }.text().unwrap();
    assert!(!text.contains("--config"), "{text}");
    assert!(
        text.contains("<key>XDG_DATA_HOME</key>\n    <string>/Volumes/big</string>\n  </dict>"),
        "{text}"
    );
}

#[test]
fn hostile_paths_stay_text() {
    let path = "/a b/it's \"q\" & <true/></string><key>Program</key><string>/bin/x ]]> <!-- $HOME ~ %h ü";
    let text = Agent { program: path.into(), ..agent() }.text().unwrap();
    assert_eq!(text.matches("<key>").count(), agent().text().unwrap().matches("<key>").count());
    insta::assert_snapshot!(text.lines().nth(9).unwrap().trim(), @"<string>/a b/it&apos;s &quot;q&quot; &amp; &lt;true/&gt;&lt;/string&gt;&lt;key&gt;Program&lt;/key&gt;&lt;string&gt;/bin/x ]]&gt; &lt;!-- $HOME ~ %h ü</string>");
}

#[test]
fn what_xml_cannot_hold_is_refused_with_what_to_do() {
    for path in
        ["/a\nb", "/a\tb", "/a\rb", "/a\u{1b}[1m", "/a\0", "/a\u{7f}", "/a\u{85}", "/a\u{fffe}", "/a\u{ffff}"]
    {
        let hostile = [
            Agent { program: path.into(), ..agent() },
            Agent { config: Some(path.into()), ..agent() },
            Agent { log: path.into(), ..agent() },
            Agent { data_home: Some(path.into()), ..agent() },
        ];
        for agent in hostile {
            let error = agent.text().unwrap_err().to_string();
            assert!(error.contains("move it") && !error.contains(char::is_control), "{error:?}");
        }
    }
}

#[test]
fn a_list_is_known_by_its_second_line() {
    let text = agent().text().unwrap();
    assert!(is_ours(&text));
    for other in ["", "bplist00", &text.replacen(MARK, "<!-- mine -->", 1), &format!("\n{text}")] {
        assert!(!is_ours(other), "{other}");
    }
}

/// Python's reader of property lists, which shares no line with this writer.
#[test]
fn another_reader_finds_what_was_meant() {
    let hostile = "/Users/a & b/<it's> \"q\"/--\u{1F600}";
    let agent = Agent {
        program: format!("{hostile}/shed-server").into(),
        config: Some(format!("{hostile}/server.yaml").into()),
        log: format!("{hostile}/log").into(),
        data_home: Some(hostile.into()),
    };
    let script = "import json, plistlib, sys\njson.dump(plistlib.loads(sys.stdin.buffer.read()), sys.stdout)";
    let child = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: there is no python3");
        return;
    };
    child.stdin.take().unwrap().write_all(agent.text().unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "Label": "dev.shed.server",
        "ProgramArguments": [agent.program, "serve", "--config", agent.config],
        "EnvironmentVariables": { "PATH": PATH, "XDG_DATA_HOME": hostile },
        "WorkingDirectory": "/",
        "StandardOutPath": agent.log,
        "StandardErrorPath": agent.log,
        "RunAtLoad": true,
        "KeepAlive": { "SuccessfulExit": false },
        "AbandonProcessGroup": true,
        "ProcessType": "Interactive",
        "ExitTimeOut": 60,
    });
    assert_eq!(read, expected);
}
