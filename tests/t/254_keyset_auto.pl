# Goal: keyset = auto. A node's keys are made by its first base backup, with the WAL key of its cluster; two sessions at once make one
# keyset; who has none yet streams nothing; what goes wrong is told to the client; whatever a kill -9 leaves, the next one gets its keys.
use strict;
use warnings;
use Cwd ();
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Console;
use Walcrypt::Strace;
use Walcrypt::Wire;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my $sample = 'perl ' . Cwd::getcwd() . '/conf/external/keeper.pl';
mkdir "$tmp/keys", 0700;
kek_file("$tmp/keys/main");

# a provider that gives random bytes; what it was asked is written down
my ($red, $other) = map { Walcrypt::Node->new($_) } qw(red other);
for ($red, $other) { $_->init(allows_streaming => 1, extra => ['-k']); $_->start; }
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g');
my $proxy = Walcrypt::Proxy->new(kek_options => { provider_random => 'on' }, kek_uri => "external:main:tee -a $tmp/asked | $sample $tmp/keys", nodes => {
	red => { conninfo => $red->connstr_for_proxy }, other => { conninfo => $other->connstr_for_proxy },
	map { ($_ => { keyset => 'auto', upstream => 'red' }) } qw(blue green violet) });
my $ks = $proxy->keystore;
my @conf = ('--config', $proxy->conf);
$proxy->start;

sub client
{
	my ($node) = @_;
	my $wire = Walcrypt::Wire->connect($proxy);
	$wire->startup(user => $node, replication => 'true');
	$wire->until('ZE');
	return $wire;
}

# The error that a command comes to; '' when it begins to be answered, undef when the connection ends.
sub comes_to
{
	my ($wire, $command) = @_;
	$wire->send('Q', "$command\0");
	my ($type, $body) = $wire->message or return undef;
	return $type eq 'E' ? { Walcrypt::Wire::fields($body) } : '';
}
my $backup = "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT false, MANIFEST 'no')";
sub made { return grep { -d "$ks/$_" } @_; }
sub ids { my ($keyset) = @_; my $show = decode_json(ctl('key', 'show', $keyset, @conf, '--json')); return ($show->{relation_id}, $show->{epochs}[0]{id}, $show); }

# before the first one
is($proxy->console('SHOW KEYS'), '', 'there are no keys');
my ($row) = grep { $_->{name} eq 'blue' } console_rows($proxy, 'SHOW NODES');
is("$row->{keyset} $row->{relation_key}", 'blue ', 'SHOW NODES: its keyset, without keys');
my $blue = client('blue');
$blue->send('Q', "IDENTIFY_SYSTEM\0");
is(($blue->message)[0], 'T', 'IDENTIFY_SYSTEM is answered');
$blue = client('blue');
for my $command ('START_REPLICATION 0/1000000', 'UPLOAD_MANIFEST') {
	my $e = comes_to($blue, $command);
	like("$e->{C} $e->{M} $e->{H}", qr/^55000 "blue" has no keys yet Its first base backup makes them/, "$command: refused");
	$blue->until('Z');
}
ok(!made('blue'), '... and nothing is made');

# what goes wrong is told, and leaves nothing
rename "$tmp/keys", "$tmp/keys.away";
my $e = comes_to($blue, $backup);
like($e->{M}, qr/^the keys of "blue": cluster key "site": the key keeper/, 'a provider without the cluster key');
rename "$tmp/keys.away", "$tmp/keys";
$blue->until('Z');
chmod 0500, $ks;
$e = comes_to($blue, $backup);
like($e->{M}, qr{^the keys of "blue": could not (create|make) .*/blue.*: Permission denied}, 'a keystore that cannot be written');
chmod 0700, $ks;
$blue->until('Z');
ok(!made('blue'), 'nothing is left of both');
my @records = map { decode_json($_) } split(/\n/, slurp_file("$ks/audit.log"));
is(scalar(grep { $_->{action} eq 'proxy: keyset made' && $_->{state} eq 'failed' } @records), 2, 'the audit log tells of them');

# two sessions at once make one keyset
sub randoms { return scalar(() = slurp_file("$tmp/asked") =~ /^random 32$/mg); }
my $randoms = randoms();
my @wires = map { client('blue') } 1 .. 2;
$_->send('Q', "$backup\0") for @wires;
is(($_->message)[0], 'T', 'a base backup begins') for @wires;
undef @wires;
@records = map { decode_json($_) } split(/\n/, slurp_file("$ks/audit.log"));
is_deeply([ map { "$_->{state} @{ $_->{arguments} // [] }" } grep { $_->{action} eq 'proxy: keyset made' && $_->{state} ne 'failed' } @records ],
	[ 'begun blue', 'begun blue', 'begun blue', 'done ' ], '... and one keyset was made')
  or diag explain \@records;
my ($relation, $wal, $show) = ids('blue');
is($show->{system_identifier}, $red->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'), '... for the cluster');
is(join(' ', map { $_->{key_id} } grep { $_->{key} ne 'cluster' } console_rows($proxy, 'SHOW KEYS')), "$relation $wal", 'SHOW KEYS shows it');
is(randoms(), $randoms + 1, 'the provider gave random bytes, once');
my $log = $proxy->log;
like($log, qr/made keyset "blue", AES256: relation key $relation/, 'the log tells');

# the standby, another one, and a restart of the proxy
my %node = (blue => Walcrypt::Node->new('blue'), green => Walcrypt::Node->new('green'));
for my $name (qw(blue green)) {
	$node{$name}->init_from_proxy($proxy, $name);
	$node{$name}->start;
}
$proxy->restart;
$red->safe_psql('postgres', 'INSERT INTO t VALUES (0)');
$red->wait_for_catchup($_) for qw(blue green);
is($node{$_}->safe_psql('postgres', 'SELECT count(*) FROM t'), 1001, "$_ streams and reads") for qw(blue green);
my @green = ids('green');
isnt($green[0], $relation, 'another relation key');
is($green[1], $wal, 'the same WAL key');
for (values %node) { ok(scalar(files_containing('VALUES (0)', $_->data_dir)) == 0, 'no text of WAL on its disk'); $_->stop; }

# an archive with a WAL key of its own does not make it unclear which one the nodes share
$proxy->{nodes}{archive} = { keyset => 'archive', profile => 1 };
$proxy->{nodes}{violet}{upstream} = 'other';
$proxy->write_conf;
ctl(qw(key init archive --own-wal-key), @conf, '--system-identifier', $show->{system_identifier});
my $before = client('violet');    # has red for its upstream
$proxy->console('RELOAD');
is(comes_to(client('violet'), $backup), '', 'violet is of another cluster now');
my @violet = ids('violet');
isnt($violet[1], $wal, '... whose WAL key is another');
$e = comes_to($before, $backup);
like($e->{M}, qr/^upstream "red" belongs to another cluster than keyset "violet"/, 'who began before that is refused');
undef $before;
$proxy->{nodes}{amber} = { keyset => 'auto', upstream => 'red' };
$proxy->write_conf;
$proxy->console('RELOAD');
is(comes_to(client('amber'), $backup), '', 'amber is of the first cluster');
is((ids('amber'))[1], $wal, '... and shares its WAL key');

# killed at each change of the disk: the next one finds the keys made, or makes them
SKIP: {
	skip_without_strace(15);
	my @paths = ("$ks/amber", "$ks/amber/new", "$ks/amber/live", map { "$ks/amber/new/$_" } qw(relation.wkey wal.wkey keyset.json));
	my $kills = 0;
	for my $call (qw(mkdir rename fsync)) {
		for (my $n = 1; ; $n++) {
			$proxy->stop;
			PostgreSQL::Test::Utils::system_or_bail('rm', '-rf', "$ks/amber");
			$proxy->start(wrapper => [ 'strace', '-D', '-f', '-qq', '-o', "$tmp/trace", map({ ('-P', $_) } @paths), '-e', "trace=$call", '-e', "inject=$call:signal=KILL:when=$n" ]);
			my $wire = client('amber');
			my $answer = comes_to($wire, $backup);
			last if defined $answer && $answer eq '' && -d "$ks/amber/live";
			$kills++;
			waitpid($proxy->pid, 0);
			$proxy->{pid} = undef;
			$proxy->start;
			is(comes_to(client('amber'), $backup), '', "killed at $call number $n: the next base backup begins");
			my ($rc, $out, $err) = ctl_output(qw(key verify amber), @conf);
			is("$rc " . (ids('amber'))[1], "0 $wal", '... with keys that verify') or diag $err;
		}
	}
	cmp_ok($kills, '>=', 7, "killed $kills times");
}
$proxy->stop;
done_testing();
