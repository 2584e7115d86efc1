//! What the program was told in confidence is found nowhere: not in its output with every log line switched on, not in
//! the state database, not in its arguments.

use crate::confided::{Confided, SOURCE, WRONG, state};
use crate::folder::Folder;
use crate::rotation::{COPYING, slowly, start, until};
use crate::scene::{Flavor, Scene};
use crate::{odd_data, with_secret};

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_logs_output_state_or_arguments() {
    let scene = Scene::new(Flavor::V8, Flavor::V9).await;
    scene.fill(&odd_data(&scene)).await;
    let confided = Confided::to(&scene).await;
    let manifest = slowly(&scene.manifest(8));
    let folder = Folder::of(&manifest.replace(&confided.administrator, &confided.url()));
    folder.replace("source", "username", &confided.name);
    folder.replace("source", "password", SOURCE);
    folder.remove("destination", "username");
    folder.remove("destination", "password");
    folder.replace("destination", "api_key", &confided.key);

    // The failing ones first: they say most.
    for (secret, of, value) in [
        ("source", "password", WRONG),
        ("destination", "api_key", "zQ7id:hunter2"),
        ("destination", "api_key", "hunter2 is no key"),
        ("postgres", "url", &confided.url_with(WRONG)),
        ("postgres", "url", &confided.url_with("hunter2#zQ7")),
        ("postgres", "url", "mysql://zQ7:hunter2@127.0.0.1/d"),
    ] {
        let before = std::fs::read_to_string(folder.path().join(secret).join(of)).unwrap();
        folder.replace(secret, of, value);
        let (success, output) = start(&folder, "trace").ended().await;
        assert!(!success, "with a wrong {secret}");
        confided.assert_untold(&format!("the output with a wrong {secret}"), &output);
        folder.replace(secret, of, &before);
    }
    let in_the_url = manifest.replace("https://127.0.0.1", "https://zQ7:hunter2@127.0.0.1");
    let run = scene.run(&in_the_url).await;
    assert!(!run.success && run.output.contains("must not contain a user name or a password"), "{run:?}");
    confided.assert_untold("the output with a password in the URL", &run.output);
    let malformed = with_secret(&manifest, "source", &[("username", "a"), ("password", "hunter2\nhunter2")]);
    let run = scene.run(&malformed).await;
    assert!(!run.success && run.output.contains("control character"), "{run:?}");
    confided.assert_untold("the output with a malformed secret", &run.output);

    let running = start(&folder, "trace");
    until(&scene, "copying", COPYING).await;
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{}/{file}", running.pid())).expect("it runs");
        confided.assert_untold(file, &String::from_utf8_lossy(&text));
    }
    let change = serde_json::json!({"password": WRONG});
    let path = format!("/_security/user/{}/_password", confided.name);
    scene.source().post(&path, &change).await.unwrap();
    running.until_it_says("HTTP 401").await;
    confided.assert_untold("the state", &state(&scene).await);
    folder.replace("source", "password", WRONG);
    let (success, output) = running.ended().await;
    assert!(success);
    assert!(output.contains("TRACE"), "not every line was logged");
    confided.assert_untold("the output of a whole merge", &output);
    confided.assert_untold("the state of a whole merge", &state(&scene).await);
    confided.forget(&scene).await;
}
