//! Files that can't be read, of every kind that the name of a manifest may have:
//! each is one sentence, keeps what it had, and is nothing to the others.

use std::os::unix::fs::symlink;

use super::*;

/// A way to make a file unreadable, and what is said of it.
type Fault = (fn(&Path), &'static str);

const FAULTS: [Fault; 6] = [
    (|path| fs::create_dir(path).unwrap(), "is not a regular file and is not read"),
    (
        |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
        "is not a regular file and is not read",
    ),
    (
        |path| symlink("nowhere/at-all", path).unwrap(),
        "is a link to nowhere/at-all, where there is nothing",
    ),
    (
        |path| symlink(path.file_name().unwrap(), path).unwrap(),
        "can't be read: Too many levels of symbolic links (os error 40)",
    ),
    // A regular file that opens, and fails when it is read: nothing is at address 0.
    (
        |path| symlink("/proc/self/mem", path).unwrap(),
        "can't be read: Input/output error (os error 5)",
    ),
    (|path| fs::write(path, b"kind: \xff").unwrap(), "is not UTF-8 text (byte 6)"),
];

#[test]
fn an_unreadable_file_is_one_sentence_and_the_rest_is_served() {
    for (fault, said) in FAULTS {
        let good = [("a.yaml", &*service("a", "80")), ("z.yaml", &service("z", "81"))];
        let mut dir = Dir::new(&good);
        fault(&dir.path("m.yaml"));
        let both = ["a".to_owned(), "z".to_owned()];
        assert_eq!(dir.services(), (both.to_vec(), vec![format!("m.yaml: {said}")]));
        assert!(dir.load().lost.may_hold("any", "thing"), "nobody knows what is in it");
        // The others go on being read.
        dir.write("z.yaml", &service("x", "81"));
        assert_eq!(dir.services().0, ["a", "x"], "{said}");
    }
}

#[test]
fn a_file_that_becomes_unreadable_keeps_what_it_had_until_it_is_gone() {
    for (fault, said) in FAULTS {
        let mut dir = Dir::new(&[("a.yaml", &service("a", "80")), ("m.yaml", &service("m", "81"))]);
        assert_eq!(dir.services().0, ["a", "m"]);
        fs::remove_file(dir.path("m.yaml")).unwrap();
        fault(&dir.path("m.yaml"));
        let said = format!("m.yaml: {said}; the object that it held stays in force");
        let both = vec!["a".to_owned(), "m".to_owned()];
        assert_eq!(dir.services(), (both, vec![said]));
        assert!(dir.load().lost.is_empty(), "its last good state is known");
        let aside = dir.path(".aside");
        fs::rename(dir.path("m.yaml"), &aside).unwrap();
        assert_eq!(dir.services(), (vec!["a".to_owned()], vec![]));
        fs::rename(&aside, dir.path("m.yaml")).unwrap();
        assert_eq!(dir.services().0, ["a"], "what is gone does not come back");
    }
}

/// It was listed, and is gone when it is to be opened.
#[test]
fn a_file_that_goes_away_before_it_is_read_is_gone_at_the_next_look() {
    let mut dir = Dir::new(&[("a.yaml", &service("a", "80")), ("m.yaml", &service("m", "81"))]);
    assert_eq!(dir.services().0, ["a", "m"]);
    fs::remove_file(dir.path("m.yaml")).unwrap();
    let listed = ["a.yaml", "m.yaml", "new.yaml"].map(OsString::from);
    let (updates, changed) = dir.manifests.refresh(&listed);
    let snapshot = dir.manifests.merge(&updates, changed);
    assert_eq!(snapshot.objects.services.len(), 2, "gone is what a listing says is gone");
    let problems: Vec<String> = snapshot.problems.iter().map(ToString::to_string).collect();
    let missing = "can't be read: No such file or directory (os error 2)";
    let expected = [
        format!("m.yaml: {missing}; the object that it held stays in force"),
        format!("new.yaml: {missing}"),
    ];
    assert_eq!(problems, expected);
    assert_eq!(dir.services(), (vec!["a".to_owned()], vec![]));
}
