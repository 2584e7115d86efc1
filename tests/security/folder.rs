//! Secrets as files, as pods mount them; a test may replace them while a merge runs.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

pub struct Folder {
    folder: TempDir,
}

impl Folder {
    /// The secrets of a manifest as files, and the rest of it as `merge.yaml`.
    pub fn of(manifest: &str) -> Folder {
        let folder = tempfile::tempdir().expect("a folder");
        let (secrets, merge) = manifest.rsplit_once("\n---\n").expect("the merge comes last");
        let this = Folder { folder };
        for document in serde_yaml_ng::Deserializer::from_str(secrets) {
            let secret = Value::deserialize(document).expect("a secret");
            let name = secret["metadata"]["name"].as_str().unwrap();
            std::fs::create_dir(this.path().join(name)).unwrap();
            for (key, value) in secret["stringData"].as_object().unwrap() {
                this.replace(name, key, value.as_str().unwrap());
            }
        }
        std::fs::write(this.path().join("merge.yaml"), merge).unwrap();
        this
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts another value in the place of one, at once as a mounted volume does.
    pub fn replace(&self, secret: &str, key: &str, value: &str) {
        let file = self.path().join(secret).join(key);
        let new = self.path().join(format!("{secret}-{key}-new"));
        std::fs::write(&new, value).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    pub fn remove(&self, secret: &str, key: &str) {
        std::fs::remove_file(self.path().join(secret).join(key)).unwrap();
    }

    /// The arguments of a run with these files.
    pub fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            "run".to_owned(),
            "-f".to_owned(),
            text(&self.path().join("merge.yaml")),
            "--secrets-dir".to_owned(),
            text(self.path()),
        ]
    }
}
