//! Commands against a real shed-server that has no image, so none of its sheds ever gets a machine. What sheds do is
//! tested in vm-tests.

use shed_testkit::{Setup, TestServer};

use crate::user::{User, closed_port, json};

async fn server() -> (TestServer, String) {
    let server = TestServer::start(Setup::default()).await.unwrap();
    let address = server.client().server().to_string();
    (server, address)
}

#[tokio::test]
async fn a_server_is_added_under_its_own_name_and_becomes_the_default() {
    let (_server, address) = server().await;
    let user = User::new();
    let ran = user.shed(&["server", "add", &address]).exits(0);
    assert!(ran.stdout.starts_with(&format!("Added server test at http://{address} (version ")), "{ran:?}");
    assert!(ran.stdout.ends_with(", the default)\n"), "{ran:?}");
    let list = json(&user.shed(&["server", "list", "--json"]).exits(0).stdout);
    let row = &list["servers"][0];
    assert_eq!((&row["name"], &row["online"], &row["default"]), (&"test".into(), &true.into(), &true.into()));
    assert_eq!(row["backend"], "qemu");

    user.shed(&["server", "add", &format!("http://{address}/")]).exits(1).says("already added, as test");
    let (host, port) = address.rsplit_once(':').unwrap();
    user.shed(&["server", "add", "localhost", "-p", port]).exits(1).says("there is a server test already");
    let ran = user.shed(&["--json", "server", "add", "localhost", "-p", port, "-n", "again"]).exits(0);
    let value = json(&ran.stdout);
    assert_eq!((&value["status"], &value["name"]), (&"ok".into(), &"again".into()));
    assert_eq!(value["details"]["host"], "localhost");
    assert!(user.config().contains("default_server: test"), "{host}: {}", user.config());
    let ran = user.shed(&["version", "-v"]).exits(0);
    assert!(!ran.stdout.contains("offline") && ran.stdout.contains("again"), "{ran:?}");
}

#[tokio::test]
async fn an_empty_server_has_an_empty_list() {
    let (server, _) = server().await;
    let user = User::with_server(server.client().server().port());
    let ran = user.shed(&["list"]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "There are no sheds on test.\n"));
    assert_eq!(json(&user.shed(&["list", "--json"]).exits(0).stdout), serde_json::json!({"sheds": []}));
    let all = json(&user.shed(&["list", "--all", "--json"]).exits(0).stdout);
    assert_eq!(all, serde_json::json!({"sheds": [], "offline": []}));
}

#[tokio::test]
async fn servers_that_are_missing_from_a_list_of_all_are_named() {
    let (server, address) = server().await;
    let (_guard, closed) = closed_port();
    let (_, port) = address.rsplit_once(':').unwrap();
    let user = User::new();
    user.write_config(&format!(
        "servers: {{here: {{host: 127.0.0.1, http_port: {port}}}, gone: {{host: 127.0.0.1, http_port: {closed}}}}}\n"
    ));
    user.shed(&["list", "--all"]).exits(0).says("the sheds of gone are missing");
    let all = json(&user.shed(&["list", "--all", "--json"]).exits(0).stdout);
    assert_eq!(all["offline"][0]["server"], "gone");
    // Two servers and no default: which one is meant is for the user to say.
    user.shed(&["list"]).exits(2).says("none is the default").says("set-default");
    user.shed(&["list", "--server", "here"]).exits(0);
    // A shed that the one does not have may be on the other.
    user.shed(&["server", "set-default", "here"]).exits(0);
    user.shed(&["stop", "web"]).exits(3).says("server here has no shed web").says("did not say");
    user.shed(&["stop", "web", "-s", "here"]).exits(4).says("web");
    drop(server);
}

#[tokio::test]
async fn what_the_server_refuses_is_said_with_a_hint_and_changes_nothing() {
    let (server, _) = server().await;
    let user = User::with_server(server.client().server().port());
    let before = user.config();
    for (line, code) in [
        (&["start", "web"][..], 4),
        (&["stop", "web"], 4),
        (&["delete", "--force", "web"], 4),
        (&["exec", "web", "ls"], 255),
        (&["create", "web", "--image", "nosuch"], 4),
        (&["create", "web", "--backend", "vz"], 1),
    ] {
        let ran = user.shed(line).exits(code).says("error: ");
        assert_eq!(ran.stdout, "", "{line:?}");
    }
    let ran = user.shed(&["create", "web", "--image", "nosuch"]).exits(4);
    assert!(ran.stderr.contains("nosuch"), "{ran:?}");
    user.shed(&["start", "web"]).exits(4).says("hint: see which sheds there are: shed list --all");
    assert_eq!(user.config(), before);
    server.assert_clean();
}

#[tokio::test]
async fn several_sheds_are_each_reported_and_the_first_failure_gives_the_code() {
    let (server, _) = server().await;
    let user = User::with_server(server.client().server().port());
    let ran = user.shed(&["--json", "stop", "web", "api", "web"]).exits(4);
    let errors: Vec<_> = ran.stderr.lines().map(json).collect();
    assert_eq!(errors.len(), 2, "each name once: {ran:?}");
    assert!(errors[0]["error"].as_str().unwrap().contains("web"), "{ran:?}");
    assert!(errors[1]["error"].as_str().unwrap().contains("api"), "{ran:?}");
}

#[tokio::test]
async fn a_shed_that_has_left_its_server_is_forgotten_and_not_deleted_elsewhere() {
    let (server, address) = server().await;
    let (_, port) = address.rsplit_once(':').unwrap();
    let user = User::new();
    user.write_config(&format!(
        "servers: {{a: {{host: 127.0.0.1, http_port: {port}}}, b: {{host: localhost, http_port: {port}}}}}\n\
         default_server: a\nsheds: {{web: {{server: b, status: running}}}}\n"
    ));
    user.shed(&["delete", "-f", "web"]).exits(4);
    assert!(!user.config().contains("web"), "{}", user.config());
    drop(server);
}
