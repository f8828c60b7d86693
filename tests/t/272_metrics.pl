# Goal: the metrics are what Prometheus takes, and say what the console says; over HTTP nobody gets more than to look, and only who may.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use JSON::PP;
use Test::More;
use Walcrypt;
use Walcrypt::Console;
use Walcrypt::Wire;
use IO::Select;

my ($red, $blue) = map { Walcrypt::Node->new($_) } qw(red blue);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "autovacuum = off\n");
$red->start;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, plain => { keyset => 'none' } },
	settings => { http_listen => "127.0.0.1:$port", http_hosts => 'Proxy.example.com' });
$proxy->key_init('blue');
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$blue->append_conf('postgresql.conf', "wal_receiver_status_interval = 1s\n");
$blue->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) i');
command_fails([ 'pg_basebackup', '-D', PostgreSQL::Test::Utils::tempdir() . '/x', '-d', $proxy->connstr('plain') ], 'an error to count');
sub standby { my ($r) = grep { $_->{node} eq 'blue' && $_->{application_name} eq 'blue' } console_rows($proxy, 'SHOW STANDBYS'); return $r; }
wait_for('the standby', sub { my $r = standby(); $r && $r->{state} eq 'streams' && $r->{lag_bytes} eq '0' });

# a second standby whose name would break a line that is not quoted well
my $receive = IPC::Run::start([ 'pg_receivewal', '-D', PostgreSQL::Test::Utils::tempdir(), '-d', $proxy->connstr('blue') . q{ application_name='a\\\\"b'}, '--no-loop' ], '<', \undef, '>&', \my $said);
wait_for('the odd name', sub { grep { $_->{application_name} eq 'a\\"b' && $_->{state} eq 'streams' } console_rows($proxy, 'SHOW STANDBYS') });

sub metrics
{
	my ($status, $head, $body) = http_get($port, '/metrics');
	is($status, 200, '/metrics') if $status != 200;
	my %m = map { /^(\S+?(?:\{.*\})?) (\S+)$/ ? ($1 => $2) : () } split /\n/, $body;
	return ($body, \%m, $head);
}
my ($body, $m, $head, $row);
# a moment in which nothing is on its way: a primary writes WAL of its own now and then
my $position = 'node="blue",application_name="blue",position="replay"';
sub number { my ($h, $l) = $_[0] =~ m{^(\w+)/(\w+)$} or return -1; return hex($h) * 2**32 + hex($l); }
wait_for('a quiet moment', sub {
	($body, $m, $head) = metrics();
	$row = standby();
	return $m->{"walcrypt_standby_lag_bytes{$position}"} eq '0' && $m->{"walcrypt_standby_lag_seconds{$position}"} eq '0.000' && $m->{'walcrypt_sessions{node="blue",state="stream"}'} eq '2'
	  && $m->{"walcrypt_standby_lsn{$position}"} == number($row->{replay_lsn});
});
like($head, qr{^Content-Type: text/plain; version=0\.0\.4}m, 'the format is named');
my ($out, $err) = ('', '');
ok(IPC::Run::run([qw(promtool check metrics)], '<', \$body, '>', \$out, '2>', \$err), 'promtool has nothing to say') or diag($out . $err);
is($err . $out, '', 'not even advice');
ok(!IPC::Run::run([qw(promtool check metrics)], '<', \($body . "walcrypt_bad{x=\"1} 1\n"), '>', \$out, '2>', \$err), 'and would, if a label were not closed');

# against the console
is($m->{'walcrypt_standby_streaming{node="blue",application_name="blue"}'}, 1, 'it streams');
is($m->{'walcrypt_standby_streaming{node="blue",application_name="a\\\\\\"b"}'}, 1, 'so does the odd one');
is($m->{'walcrypt_standby_lag_bytes{node="blue",application_name="blue",position="replay"}'}, 0, 'the lag in bytes');
is($m->{'walcrypt_standby_lag_seconds{node="blue",application_name="blue",position="replay"}'}, '0.000', 'and in seconds');
is($m->{"walcrypt_standby_lsn{$position}"}, number($row->{replay_lsn}), 'a position');
is($m->{'walcrypt_upstream_up{node="red"}'} . $m->{'walcrypt_upstream_primary{node="red"}'}, '11', 'the upstream');
my ($plain) = grep { $_->{node} eq 'plain' } console_rows($proxy, 'SHOW STATS');
is($m->{qq{walcrypt_errors_total{node="plain",class="$_"}}}, $plain->{"errors_$_"}, "errors: $_") for qw(failed usage damaged unreachable wrong_key refused);
cmp_ok($plain->{errors_refused}, '>', 0, '... there are some');
is($m->{'walcrypt_base_backups_total{node="blue"}'}, 1, 'base backups');
for my $key (console_rows($proxy, 'SHOW KEYS')) {
	my $epoch = $key->{epoch} || 0;
	is($m->{qq{walcrypt_key_info{keyset="$key->{keyset}",key="$key->{key}",epoch="$epoch",key_id="$key->{key_id}",state="$key->{state}"}}}, 1, "the id of the $key->{key} key");
}
my ($aged) = grep { /^walcrypt_key_age_seconds\{.*key="relation"/ } keys %$m;
my $age = $m->{$aged};
ok($age >= 0 && $age < 300, "its age: $age s");
is($m->{'walcrypt_sessions{node="blue",state="stream"}'}, 2, 'sessions');
# who has not authenticated does not choose a label: each would be a series of its own
my @strangers = map { my $c = Walcrypt::Wire->connect($proxy); $c->startup(user => "stranger$_", replication => 'true'); $c->until('E'); $c } 1 .. 3;
my ($text, $now) = metrics();
is($now->{'walcrypt_sessions{node="",state="closing"}'}, 3, 'sessions of strangers');
unlike($text, qr/stranger/, '... without the names that they say they have');
undef @strangers;
cmp_ok($m->{'process_resident_memory_bytes'}, '>', 1 << 20, 'memory');
my $sent = $m->{'walcrypt_sent_bytes_total{node="blue"}'};
$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 100000)');
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
wait_for('the bytes', sub { ($body, $m) = metrics(); $m->{'walcrypt_sent_bytes_total{node="blue"}'} > $sent + 5_000_000 });
ok(1, 'bytes are counted as they go');

# held up: what is replayed has a lag, what is flushed has none
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
wait_for('the pause', sub { $blue->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' });
$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 20000)');
my ($earlier, $later);
wait_for('the lag, between two equal looks at the console', sub {
	$earlier = standby();
	($body, $m) = metrics();
	$later = standby();
	return $earlier->{replay_lag_s} > 1 && $earlier->{flush_lag_s} eq '0.000' && !grep { $earlier->{$_} ne $later->{$_} } qw(upstream_lsn flush_lsn replay_lsn flush_lag_s);
});
my %lag;
for my $unit (qw(bytes seconds)) { $lag{$unit}{$_} = $m->{"walcrypt_standby_lag_$unit" . qq({node="blue",application_name="blue",position="$_"})} for qw(flush replay); }
cmp_ok($lag{bytes}{replay}, '>', 1_000_000, 'a standby that is held up: it has a lag in bytes');
is($lag{bytes}{replay}, $later->{lag_bytes}, '... as the console says');
cmp_ok($lag{seconds}{replay}, '>=', $earlier->{replay_lag_s}, '... and in seconds');
cmp_ok($lag{seconds}{replay}, '<=', $later->{replay_lag_s}, '... as the console says');
is("$lag{bytes}{flush} $lag{seconds}{flush}", '0 0.000', 'what it has flushed has none');
cmp_ok($m->{$aged}, '>', $age, 'and keys have grown older meanwhile');
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_for('it to catch up', sub { my $r = standby(); $r->{lag_bytes} eq '0' && $r->{replay_lag_s} eq '0.000' });
$receive->signal('INT');
$receive->finish;
wait_for('its end', sub { ($body, $m) = metrics(); $m->{'walcrypt_standby_streaming{node="blue",application_name="a\\\\\\"b"}'} == 0 });
is($m->{'walcrypt_standby_stream_end{node="blue",application_name="a\\\\\\"b",end="client"}'}, 1, 'how it ended');
ok(!grep { /^walcrypt_standby_lag.*a\\/ } keys(%$m), 'what does not stream has no lag');

# a base backup under way, which nobody reads, so that it stands still
my $slow = Walcrypt::Wire->connect($proxy);
$slow->startup(user => 'blue', replication => 'true', application_name => 'slow');
$slow->until('ZE');
$slow->send('Q', "BASE_BACKUP (LABEL 'x', PROGRESS, CHECKPOINT 'fast', WAIT false)\0");
my $done = -1;
my $backup = wait_for('the backup to stand still', sub {
	my ($s) = grep { $_->{application_name} eq 'slow' && ($_->{backup_done} || 0) > 0 } console_rows($proxy, 'SHOW SESSIONS');
	my $same = $s && $s->{backup_done} == $done;
	$done = $s->{backup_done} if $s;
	($body, $m) = metrics();
	return $same && $m->{qq{walcrypt_base_backup_bytes{node="blue",session="$s->{id}"}}} == $done ? $s : select(undef, undef, undef, 0.3) && 0; });
is($m->{qq{walcrypt_base_backup_bytes{node="blue",session="$backup->{id}"}}}, $backup->{backup_done}, 'how far a base backup is');
is($m->{qq{walcrypt_base_backup_size_bytes{node="blue",session="$backup->{id}"}}}, $backup->{backup_size}, '... of how much');
ok(IPC::Run::run([qw(promtool check metrics)], '<', \$body, '>', \$out, '2>', \$err), '... and promtool has nothing to say') or diag($out . $err);
undef $slow;
wait_for('the backup to be given up', sub { ($body, $m) = metrics(); $m->{'walcrypt_base_backups_failed_total{node="blue"}'} == 1 && !grep { /^walcrypt_base_backup_(size_)?bytes/ } keys %$m });
pass('one that is over is none under way');

# of keys the ids, and nothing of themselves: neither by the console nor over HTTP
my @secrets = split(/\n/, (run_command([ 'python3', '-B', '-c', <<'PYTHON', $proxy->keystore . '/blue', "$proxy->{dir}/kek" ]))[0]);
import base64, sys
sys.path.insert(0, "tests/decoder")
import decoder
kek = decoder.read_kek(sys.argv[2])
keys = decoder.open_key_dir(sys.argv[1], kek)
for key in (kek, keys.relation, *(key for _, key in keys.epochs.values())):
    print(key.hex()[:20], base64.b64encode(key).decode()[:20], sep="\n")
PYTHON
is(scalar @secrets, 6, 'cluster key, relation key and WAL key, in hexadecimal digits and in base64');
my @ids = map { $_->{key_id} } console_rows($proxy, 'SHOW KEYS');
my @shown = map { [ $_, scalar $proxy->console($_) ] } grep { /^SHOW/ } map { $_->{query} } console_rows($proxy, 'SHOW HELP');
push @shown, map { [ $_, (http_get($port, $_))[2] ] } qw(/ /metrics /status.json /history.json);
for (@shown) {
	my ($what, $text) = @$_;
	is(join(' ', grep { index(lc $text, lc) >= 0 } @secrets), '', "$what: no key in it");
	ok(!(grep { index($text, $_) < 0 } @ids), "$what: (their ids are)") if $what =~ m{^SHOW KEYS$|^/metrics$|^/status\.json$};
}

# the data of the page
my ($status, undef, $json) = http_get($port, '/status.json');
my $state = decode_json($json);
is($status, 200, '/status.json');
is(join(' ', sort keys %$state), 'keys nodes now sessions standbys stats status upstream', 'the console\'s tables');
is((grep { $_->{node} eq 'blue' && $_->{application_name} eq 'blue' } @{ $state->{standbys} })[0]{system_identifier}, $row->{system_identifier}, 'the same in it');
# the last two: of a moment without a lag, and one of them was not late
my ($before, $last);
wait_for('two points of the lag', sub {
	my ($one) = grep { $_->{application_name} eq 'blue' } @{ decode_json((http_get($port, '/history.json'))[2]) };
	return 0 unless $one && @{ $one->{samples} } >= 2;
	($before, $last) = @{ $one->{samples} }[ -2, -1 ];
	return $last->[1] == 0 && $last->[0] - $before->[0] >= 4;
});
is($last->[1], 0, 'the history of the lag');
cmp_ok($last->[0] - $before->[0], '>=', 4, 'a point each 5 s');

# only looking, only by who may
is((http_get($port, '/', method => 'HEAD'))[0], 200, 'HEAD');
is((http_get($port, '/', method => 'HEAD'))[2], '', 'which has no body');
for my $method (qw(POST PUT DELETE OPTIONS)) {
	($status, $head) = http_get($port, '/', method => $method, headers => "Content-Length: 0\r\n");
	is($status, 405, "$method is refused");
	like($head, qr/^Allow: GET, HEAD\r?$/m, "$method is told what there is");
}
is((http_get($port, '/../etc/passwd'))[0], 404, 'nothing else is there');
for my $host ("127.0.0.1:$port", '127.0.0.1', "[::1]:$port", "localhost:$port", 'LOCALHOST', "proxy.example.com:$port", '10.1.2.3') {
	is((http_get($port, '/metrics', host => $host))[0], 200, "Host: $host");
}
for my $host ("evil.example.com:$port", 'localhost.example.com', '127.0.0.1.example.com', '[::1', 'a]', '127.1.example') {
	is((http_get($port, '/metrics', host => $host))[0], 403, "Host: $host is a stranger's");
}
is((http_raw($port, "GET /metrics HTTP/1.1\r\n\r\n") =~ m{^HTTP/1\.\d (\d+)})[0], 400, 'HTTP/1.1 without Host');
($status, $head) = http_get($port, '/');
like($head, qr/^Content-Security-Policy: default-src 'none'; style-src 'sha256-[^']+'; script-src 'sha256-[^']+';/m, 'the page may load nothing');
unlike($head, qr/^Access-Control-/mi, 'and no other page may read it');
like($head, qr/^Connection: close/mi, 'one request each');

# connections: as many as there are places, none for long
my @idle = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) } 1 .. 40;
my $start = time();
wait_for('room', sub { my $answer = http_raw($port, "GET /metrics HTTP/1.0\r\n\r\n", 60); defined $answer && $answer =~ /walcrypt_info/ });
cmp_ok(time() - $start, '<', 60, 'those who say nothing are sent away');
$_->close for @idle;
# a byte now and then is no way to stay
my $drip = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
print $drip "GET / HTTP/1.1\r\nX: ";
$start = time();
wait_for('the end of the drip', sub { local $SIG{PIPE} = 'IGNORE'; select(undef, undef, undef, 0.5); !(syswrite($drip, 'x')) || IO::Select->new($drip)->can_read(0) });
cmp_ok(time() - $start, '<', 60, 'nor is a byte now and then a way to stay');
is((http_get($port, '/metrics'))[0], 200, 'and the server is still there');

# where it listens
my $rc;
my $other = Walcrypt::Proxy->new(nodes => $proxy->{nodes});
$other->key_init('blue', '--system-identifier', $row->{system_identifier});
my $check = sub {
	my (%set) = @_;
	local $other->{settings} = \%set;
	$other->write_conf;
	IPC::Run::run([ $Walcrypt::proxy, '-t', '-c', $other->conf ], '<', \undef, '>', \my $o, '2>', \my $e);
	return ($? >> 8, $e);
};
($rc, $err) = $check->(http_listen => '0.0.0.0:9634');
is($rc, 2, 'on all addresses, for anybody: refused');
like($err, qr/not loopback.*HINT:.*http_allow_addr/s, 'with what to do');
is(($check->(http_listen => '0.0.0.0:9634', http_allow_addr => '10.0.0.0/8'))[0], 0, 'for some: fine');
is(($check->(http_listen => '[::1]:9634'))[0], 0, 'IPv6');
for my $bad ('9634', '127.0.0.1', '127.0.0.1:0', '127.0.0.1:70000', '127.0.0.1:x', ':9634') {
	($rc, $err) = $check->(http_listen => $bad);
	is($rc, 2, "http_listen = $bad");
	like($err, qr/walcrypt\.ini:\d+: http_listen/, 'with its line') or diag($err);
}
is(($check->(http_listen => '127.0.0.1:9634', http_allow_addr => '10.0.0.1/8'))[0], 2, 'a network that is none');
$proxy->{settings}{http_allow_addr} = '10.0.0.0/8';
$proxy->write_conf;
kill('HUP', $proxy->pid);
wait_for('the reload', sub { $proxy->log =~ /reloaded/ });
is(http_raw($port, "GET / HTTP/1.0\r\n\r\n"), '', 'who is not in http_allow_addr is not even heard, from the next reload on');
is($proxy->stop, 0, 'the proxy ends with exit 0');
my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
is($proxy->start(fail_ok => 1), 0, 'a port that is taken');
like($proxy->log, qr/could not listen on http_listen 127\.0\.0\.1:$port: Address already in use/, 'is told');
done_testing();
