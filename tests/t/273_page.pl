# Goal: the page, looked at in a browser: it shows what the console says of a real standby, draws its lag, loads nothing from elsewhere, and
# takes no name for markup.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Console;
use Walcrypt::Wire;

my ($red, $blue) = map { Walcrypt::Node->new($_) } qw(red blue);
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "autovacuum = off\nwal_keep_size = 256MB\n");
$red->start;
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' }, archive => { keyset => 'archive', profile => 1 } },
	settings => { http_listen => "127.0.0.1:$port" });
$proxy->key_init($_) for qw(blue archive);
$proxy->start;
$blue->init_from_proxy($proxy, 'blue');
$blue->append_conf('postgresql.conf', "wal_receiver_status_interval = 1s\n");
$blue->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 100000) i');
my $markup = '<img src=x onerror=document.title=1>';
my $receive = IPC::Run::start([ 'pg_receivewal', '-D', PostgreSQL::Test::Utils::tempdir(), '-d', $proxy->connstr('archive') . " application_name='$markup'", '--no-loop' ], '<', \undef, '>&', \my $said);
sub standby { my ($name) = @_; my ($r) = grep { $_->{application_name} eq $name } console_rows($proxy, 'SHOW STANDBYS'); return $r // {}; }
wait_for('the receiver', sub { (standby($markup)->{state} // '') eq 'streams' });
# a base backup that nobody reads
my $slow = Walcrypt::Wire->connect($proxy);
$slow->startup(user => 'blue', replication => 'true', application_name => 'slow');
$slow->until('ZE');
$slow->send('Q', "BASE_BACKUP (LABEL 'x', PROGRESS, CHECKPOINT 'fast', WAIT false)\0");
wait_for('the backup', sub { grep { $_->{application_name} eq 'slow' && ($_->{backup_done} || 0) > 0 } console_rows($proxy, 'SHOW SESSIONS') });
# held up, so that there is a lag to draw
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
wait_for('the pause', sub { $blue->safe_psql('postgres', 'SELECT pg_get_wal_replay_pause_state()') eq 'paused' });
$red->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 100000)');
my $end = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
wait_for('the lag', sub { my $r = standby('blue'); $r->{flush_lsn} ne '' && $red->safe_psql('postgres', "SELECT '$r->{flush_lsn}' >= '$end'::pg_lsn") eq 't' });
wait_for('three points of it', sub { my ($status, undef, $body) = http_get($port, '/history.json'); my ($mine) = $body =~ /"application_name":"blue","samples":(\[.*?\]\])/; 3 <= (() = ($mine // '') =~ /\[\d+,[1-9]\d{5,},/g) });

my $home = PostgreSQL::Test::Utils::tempdir();
sub browse
{
	my (@options) = @_;
	my ($out, $err) = ('', '');
	local $ENV{HOME} = $home;
	IPC::Run::run([ 'chromium', '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-extensions', '--no-first-run', "--user-data-dir=$home/profile",
		'--virtual-time-budget=5000', '--timeout=60000', @options, "http://127.0.0.1:$port/" ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(180))
		or die "chromium: $err";
	return ($out, $err);
}
# a moment in which the server writes nothing of its own
my ($row, $dom, $messages);
wait_for('a quiet moment', sub {
	my $before = standby('blue');
	($dom, $messages) = browse('--enable-logging=stderr', '--dump-dom');
	$row = standby('blue');
	return !grep { $before->{$_} ne $row->{$_} } qw(upstream_lsn sent_lsn flush_lsn replay_lsn);
});
like($dom, qr/<body data-ready="yes">/, 'the page has drawn what it asked for');
unlike($messages, qr/Content Security Policy|Uncaught|SyntaxError|TypeError/, 'and had nothing to complain about') or diag($messages);

# a table's cells: rows are found by their attributes
sub cells
{
	my ($section, $attributes) = @_;
	my ($part) = $dom =~ m{id="$section".*?<tbody>(.*?)</tbody>}s or return {};
	my ($row) = $part =~ m{<tr $attributes>(.*?)</tr>}s or return {};
	my %cell;
	for (split m{</td>}, $row) {
		my ($column, $inside) = /data-col="(\w+)">(.*)/s or next;
		$cell{$column} = $inside =~ s/<[^>]*>//gr;
	}
	return \%cell;
}
my $cells = cells('standbys', 'data-node="blue" data-app="blue" data-state="streams"');
is($cells->{$_}, $row->{$_}, "the standby: $_") for qw(node application_name upstream timeline sent_lsn flush_lsn replay_lsn);
is($cells->{state}, 'streams', 'it streams');
is($cells->{lag_bytes}, sprintf('%.1f MiB', $row->{lag_bytes} / 2**20), 'how far it is behind');
for my $key (console_rows($proxy, 'SHOW KEYS')) {
	my $c = cells('keys', qq{data-keyset="$key->{keyset}" data-key="$key->{key}" data-id="$key->{key_id}"});
	is($c->{key_id}, $key->{key_id}, "the $key->{key} key of $key->{keyset}");
	like($c->{age_s}, $key->{age_s} eq '' ? qr/^–$/ : qr/^\d+(\.\d)? s$|^\d min$/, 'its age') or diag($c->{age_s});
}
is(cells('upstream', 'data-node="red" data-state="primary"')->{version}, (console_rows($proxy, 'SHOW UPSTREAM'))[0]{version}, 'the upstream');
for my $session (grep { $_->{node} ne 'monitor' } console_rows($proxy, 'SHOW SESSIONS')) {
	my $c = cells('sessions', qq{data-session="$session->{id}" data-node="$session->{node}"});
	is("$c->{state} $c->{command}", "$session->{state} $session->{command}", "session $session->{id}");
}
my ($backup) = grep { $_->{application_name} eq 'slow' } console_rows($proxy, 'SHOW SESSIONS');
like($dom, qr/data-session="$backup->{id}" data-done="$backup->{backup_done}"/, 'the base backup under way');
is(($dom =~ /role="progressbar" aria-label="base backup of blue"[^>]* aria-valuenow="(\d+)"/)[0], int($backup->{backup_done} / $backup->{backup_size} * 100 + 0.5), 'how far it is');
my ($d) = $dom =~ /<path d="([^"]*)" class="curve c\d" data-node="blue" data-app="blue"/;
my @y = ($d // '') =~ /[ML][\d.]+ ([\d.]+)/g;
cmp_ok(scalar @y, '>=', 3, 'the line of its lag has points');
cmp_ok($y[-1], '<', $y[0], 'and has gone up');
like($dom, qr/class="edge good"/, 'the topology has an edge that is alive');

# a name is text
like($dom, qr/&lt;img src=x onerror=document\.title=1&gt;/, 'markup in a name is shown as text');
unlike($dom, qr/<img/i, 'and is none');
my @outside = grep { !m{^(http://www\.w3\.org/2000/svg|data:,)$} } $dom =~ m{(?:src|href|action|url\()=?["']?((?:https?:|//|data:)[^"')\s]*)}gi;
is("@outside", '', 'nothing is loaded from anywhere');

# pictures, in light and dark: not blank, and not alike
my $look = <<'PYTHON';
import struct, sys, zlib
data = open(sys.argv[1], "rb").read()
at, idat = 8, b""
while at < len(data):
    n, kind = struct.unpack(">I4s", data[at:at + 8])
    if kind == b"IHDR": width, height, depth, colour = struct.unpack(">IIBB", data[at + 8:at + 18])
    if kind == b"IDAT": idat += data[at + 8:at + 8 + n]
    at += 12 + n
bpp = {2: 3, 6: 4}[colour]
raw, stride = zlib.decompress(idat), width * bpp
seen, light, line = {}, 0, bytearray(stride)
for y in range(height):
    kind, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
    for x in range(stride):
        a = row[x - bpp] if x >= bpp else 0
        b = line[x]
        c = line[x - bpp] if x >= bpp else 0
        p = a + b - c
        pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
        row[x] = (row[x] + (0, a, b, (a + b) // 2, a if pa <= pb and pa <= pc else b if pb <= pc else c)[kind]) & 255
    line = row
    if y % 7 == 0:
        for x in range(0, stride, bpp * 3):
            colour = bytes(row[x:x + 3])
            seen[colour] = seen.get(colour, 0) + 1
            light += sum(colour) / 3
total = sum(seen.values())
print(width, height, len(seen), max(seen.values()) / total, light / total)
PYTHON
my %light;
for my $scheme ([ 'light' ], [ 'dark', '--blink-settings=preferredColorScheme=0', '--force-dark-mode' ]) {
	my ($name, @options) = @$scheme;
	my $file = "$PostgreSQL::Test::Utils::log_path/273_page_$name.png";
	browse(@options, '--hide-scrollbars', '--window-size=1280,1800', '--force-device-scale-factor=0.5', "--screenshot=$file");
	my ($width, $height, $colours, $most, $light) = split ' ', (run_command([ 'python3', '-c', $look, $file ]))[0];
	cmp_ok($width, '>=', 600, "$name: a picture of $width x $height");
	cmp_ok($colours, '>', 40, "$name: $colours colours");
	cmp_ok($most, '<', 0.95, "$name: it is not blank");
	$light{$name} = $light;
}
cmp_ok($light{light}, '>', 180, 'light is light');
cmp_ok($light{dark}, '<', 80, 'dark is dark');

$receive->signal('INT');
$receive->finish;
undef $slow;
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
# the primary is gone: it shows
$red->stop('immediate');
wait_for('the end of the stream', sub { standby('blue')->{state} eq 'ended' });
($dom) = browse('--dump-dom');
is(cells('standbys', 'data-node="blue" data-app="blue" data-state="ended"')->{state}, 'lost', 'a stream that was lost');
is($proxy->stop, 0, 'the proxy ends with exit 0');
done_testing();
