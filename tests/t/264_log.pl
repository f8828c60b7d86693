# Goal: the log's lines say which session, whose, and where its stream is, as text in PostgreSQL's style or as JSON, an object a line,
# whatever names clients give themselves; a reload changes the format; no line is made by a client.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
my $lsn = $red->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');

# A stream that has told how far it is, and leaves; the log's new part.
sub stream
{
	my ($name) = @_;
	my $offset = $proxy->log_size;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => 'blue', replication => 'true', application_name => $name);
	$c->until('Z');
	$c->send('Q', "START_REPLICATION PHYSICAL $lsn TIMELINE 1\0");
	$c->until('W');
	my ($high, $low) = map { hex } split('/', $lsn);
	$c->send('d', 'r' . pack('NNNNNNNNC', $high, $low, $high, $low, 0, 0, 0, 0, 0));
	$red->safe_psql('postgres', "SELECT pg_logical_emit_message(false, 'x', 'y')");
	wait_for('some WAL', sub { ($c->message)[1] =~ /^w/ });
	wait_for('its position', sub { $proxy->console('SHOW SESSIONS') =~ /\|$lsn\|$lsn\|/ });
	close $c->{socket};
	wait_for_file_line($proxy->logfile, qr/the client has gone/, $offset);
	return $proxy->log($offset);
}
sub refused
{
	my $offset = $proxy->log_size;
	my $c = Walcrypt::Wire->connect($proxy);
	$c->startup(user => "no\"body\n\xC3\xA9\xFF\xE2\x82\xAC\xED\xA0\x80", replication => 'true');
	$c->until('E');
	wait_for_file_line($proxy->logfile, qr/there is no node or profile/, $offset);
	return $proxy->log($offset);
}

# 1 text
my $text = stream("evil\n2026-01-01 00:00:00.000 UTC [1] FATAL:  made up\x{1b}[31m");
my $stamp = qr/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC \[@{[$proxy->pid]}\]/;
like($_, qr/^$stamp (LOG|WARNING|DETAIL|HINT):  /, 'a line in PostgreSQL\'s style') for grep { !/reading|SHOW/ } split(/\n/, $text);
like($text, qr/^$stamp LOG:  session \d+ \(blue\): evil.*, upstream "red" \(pid \d+\), timeline 1$/m, 'a session begins');
like($text, qr/^$stamp LOG:  session \d+ \(blue\) at [0-9A-F]+\/[0-9A-F]+: closed: the client has gone; \d+ bytes sent$/m, '... and ends, with its LSN');
unlike($text, qr/^\S+ \S+ UTC \[1\]|\x{1b}/m, 'a name makes no line, and no escape sequence');

# 2 JSON
$proxy->{settings}{log_format} = 'json';
$proxy->write_conf;
my $at = $proxy->log_size;
is($proxy->console('RELOAD'), 'RELOAD', 'a reload changes the format');
wait_for_file_line($proxy->logfile, qr/reloaded/, $at);
my $odd = "a \"b\" \\ \x{1b} \xC3\xA9 \xFF\xC3 \xE2\x82\xAC \xED\xA0\x80 " . 'x' x 300;
my @lines = map { decode_json($_) } split(/\n/, stream($odd) . refused());
cmp_ok(scalar @lines, '>=', 3, 'each line is an object');
my ($begin) = grep { $_->{message} =~ /upstream "red"/ } @lines;
my ($end) = grep { $_->{message} =~ /^closed: the client has gone/ } @lines;
is($begin->{pid}, $proxy->pid, 'pid');
is($begin->{error_severity}, 'LOG', 'error_severity');
is($begin->{node}, 'blue', 'node');
is($begin->{remote_host}, 'local', 'remote_host');
like($begin->{application_name}, qr/^a "b" \\ \? \?\? /, 'application_name, whatever it is');
like($begin->{session_id}, qr/^\d+$/, 'session_id');
is($end->{session_id}, $begin->{session_id}, 'the same at its end');
is($end->{write_lsn}, $lsn, 'write_lsn');
is($end->{flush_lsn}, $lsn, 'flush_lsn');
ok(!exists $end->{replay_lsn}, 'what is not known is left out');
like($end->{sent_lsn}, qr/^[0-9A-F]+\/[0-9A-F]+$/, 'sent_lsn');
is($end->{state}, 'stream', 'state');
is($end->{command}, 'START_REPLICATION', 'command');
like($end->{timestamp}, qr/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC$/, 'timestamp');
my ($no) = grep { $_->{message} =~ /there is no node or profile/ } @lines;
is($no->{state_code}, '28000', 'state_code of an error');
is($no->{error_severity}, 'WARNING', '... its severity');
like($no->{hint}, qr/^The user's name says/, '... and its hint');
is($no->{message}, "there is no node or profile \"no\"body\n\x{e9}\x{fffd}\x{20ac}\x{fffd}\x{fffd}\x{fffd}\" in walcrypt-proxy's configuration", '... a name as it came, but what is no UTF-8');

# 3 what it may be
$proxy->{settings}{log_format} = 'xml';
$proxy->write_conf;
my (undef, $err) = $proxy->console('RELOAD');
like($err, qr/log_format "xml" is neither text nor json/, 'another format is refused');
$proxy->{settings}{log_format} = 'json';
$proxy->write_conf;
is($proxy->stop, 0, 'the proxy stops in good order');
my ($last) = (split(/\n/, $proxy->log))[-1];
is(decode_json($last)->{message}, 'stopped', 'to the last line');
done_testing();
