//! Popular answers from one process to the next.

use crate::client::{Reply, UdpClient, question};
use crate::corewall::Site;
use crate::upstream::Upstream;

#[test]
fn a_popular_answer_is_there_after_a_restart_and_a_damaged_file_does_not_keep_it_from_starting() {
    let upstream = Upstream::new();
    // The table that the site begins with is `[cache]`.
    let site = Site::new().toml("save_dir = \"saved\"").upstream(&[upstream.address()]);
    let site = site.list("rules", "adblock", "", "||blocked.example.org^\n");
    let popular = question("popular.example.org", "A");
    let server = site.build_and_serve();
    let client = UdpClient::new(server.address());
    client.send(&popular.to_wire(1));
    upstream.answer(&upstream.hear(), [192, 0, 2, 1]);
    assert_eq!(Reply::parse(&client.receive()).data(), ["A 192.0.2.1"]);
    for _ in 0..3 {
        assert_eq!(client.ask(&popular).data(), ["A 192.0.2.1"]);
    }
    server.signal("TERM");
    let done = server.finish();
    assert!(done.err.contains("answers saved in"), "{done:?}");

    let server = site.serve();
    assert_eq!(UdpClient::new(server.address()).ask(&popular).data(), ["A 192.0.2.1"]);
    assert!(upstream.is_not_asked());
    server.wait_for_log("saved answers taken from");
    server.stop();

    let file = site.path("saved/cache-of-worker-0");
    let mut octets = std::fs::read(&file).unwrap();
    *octets.last_mut().unwrap() ^= 1;
    std::fs::write(&file, octets).unwrap();
    let server = site.serve();
    server.wait_for_log("it is damaged");
    let client = UdpClient::new(server.address());
    client.send(&popular.to_wire(2));
    upstream.answer(&upstream.hear(), [192, 0, 2, 2]);
    assert_eq!(Reply::parse(&client.receive()).data(), ["A 192.0.2.2"]);
}
