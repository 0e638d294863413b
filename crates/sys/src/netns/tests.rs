use super::*;
use crate::testing::root;
use std::net::TcpListener;

#[test]
fn a_new_namespace_is_another_one_and_the_thread_comes_back() {
    if !root("netns") {
        return;
    }
    let home = Netns::current().unwrap();
    let pod = Netns::create().unwrap();
    assert_ne!(home.id(), pod.id());
    let inside = pod.enter(|| Netns::current().unwrap().id()).unwrap();
    assert_eq!(inside, pod.id());
    assert_eq!(Netns::current().unwrap().id(), home.id());
}

#[test]
fn the_thread_comes_back_after_a_panic_and_from_a_nested_entry() {
    if !root("netns") {
        return;
    }
    let home = Netns::current().unwrap().id();
    let (outer, inner) = (Netns::create().unwrap(), Netns::create().unwrap());
    let seen = outer.enter(|| {
        let nested = inner.enter(|| Netns::current().unwrap().id()).unwrap();
        (nested, Netns::current().unwrap().id())
    });
    assert_eq!(seen.unwrap(), (inner.id(), outer.id()));
    let caught = std::panic::catch_unwind(|| outer.enter(|| panic!("inside, on purpose")));
    assert!(caught.is_err());
    assert_eq!(Netns::current().unwrap().id(), home);
}

#[test]
fn sockets_stay_where_they_were_made() {
    if !root("netns") {
        return;
    }
    let (a, b) = (Netns::create().unwrap(), Netns::create().unwrap());
    let listen = || TcpListener::bind("0.0.0.0:15001").unwrap();
    // The same port twice: they are in two namespaces.
    let first = a.enter(listen).unwrap();
    let second = b.enter(listen).unwrap();
    assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
}

#[test]
fn what_is_not_a_network_namespace_is_refused() {
    for path in ["/dev/null", "/proc/self/ns/mnt", "/proc/self/exe"] {
        let refused = Netns::open(Path::new(path)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{path}");
    }
    assert_eq!(
        Netns::open(Path::new("/nowhere")).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    let fd = OwnedFd::from(File::open("/proc/self/ns/net").unwrap());
    assert_eq!(
        Netns::from_fd(fd).unwrap().id(),
        Netns::current().unwrap().id()
    );
}
