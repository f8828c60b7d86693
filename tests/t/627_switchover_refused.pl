# Goal: each check before a switchover refuses what it is for, with nothing begun: roles that may not do what they must, a primary without checksums, a standby that is
# behind, does not stream through the proxy, or has other keys than the configuration says; a fate of the old primary that cannot be; two primaries; nothing to encrypt.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;

my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 128MB\nautovacuum = off\n");
my ($red, $blue) = @node{qw(red blue)};
my %section = map { $_ => { %{ $proxy->{nodes}{$_} } } } qw(red blue);
$red->safe_psql('postgres', "CREATE ROLE weak LOGIN; SELECT pg_create_physical_replication_slot('spare')");
$red->wait_for_catchup('blue', 'replay', $red->lsn('flush'));

# Refused, each of the checks that does not hold being among these and the other way round.
sub refused
{
	my ($what, $fails, @args) = @_;
	my ($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, '--to', 'blue', @args);
	is($rc, 6, "$what: refused") or diag($out, $err);
	my @failed = $out =~ /^  FAIL  (.*)$/mg;
	@failed = $err =~ /^ERROR:  (.*)$/mg if !@failed;
	my $ok = @failed == @$fails;
	for my $i (0 .. $#$fails) { $ok &&= $failed[$i] =~ /^$fails->[$i]/; }
	ok($ok, "$what: for that reason, and no other") or diag(join("\n", @failed));
	ok(!-e $proxy->keystore . '/switchover.json' && !-e $red->data_dir . '/standby.signal', "$what: nothing is begun");
	return $out;
}
# With other lines in the sections of the configuration.
sub with
{
	my ($red_has, $blue_has, $do) = @_;
	$proxy->{nodes}{red} = { %{ $section{red} }, %$red_has };
	$proxy->{nodes}{blue} = { %{ $section{blue} }, %$blue_has };
	$proxy->write_conf;
	$do->();
	$proxy->{nodes} = { map { $_ => { %{ $section{$_} } } } keys %section };
	$proxy->write_conf;
	return;
}
my ($weak_red, $weak_blue) = map { { control_conninfo => 'host=' . $node{$_}->host . ' port=' . $node{$_}->port . ' user=weak' } } qw(red blue);
with({}, $weak_blue, sub {
	my $out = refused("a role of the standby's", [ 'the role of "blue" may call pg_promote there$', 'the role of "blue" may make and drop slots there$' ]);
	like($out, qr/HINT:  GRANT EXECUTE ON FUNCTION pg_promote TO weak, in database postgres\.$/m, '... with what to grant');
	like($out, qr/HINT:  ALTER ROLE weak REPLICATION\.$/m, '... and what to alter'); });
with($weak_red, {}, sub {
	my $out = refused("a role of the primary's", [ 'the role of "red" may order a checkpoint there$', 'the role of "red" sees who streams there$' ]);
	like($out, qr/HINT:  GRANT pg_checkpoint TO weak\.\n.*HINT:  GRANT pg_monitor TO weak\.$/ms, '... with what to grant'); });

# fates of the old primary
refused('a clear one re-encrypted', [ '"red" has a keyset, which --old=reencrypt renews$', 'another standby streams while "red" is re-encrypted' ], '--old', 'reencrypt');
with({ allow_clear => 'off' }, {}, sub { refused('a clear one that may not follow', [ '"red" can follow as a clear standby' ], '--old', 'clear'); });

# keys
$proxy->key_init('other');
with({}, { keyset => 'other' }, sub { refused('other keys', [ 'the directory of "blue" has relation key \w{16}, and keyset "other" has \w{16}$' ]); });

# behind
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 5000) i');
$red->wait_for_catchup('blue', 'flush', $red->lsn('flush'));
refused('far behind', [ '"blue" replays without pause or delay$', 'it is \d+ kB behind \(allowed: 1 MB\)$' ], '--max-lag', 1);
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$red->wait_for_catchup('blue', 'replay', $red->lsn('flush'));

# not through the proxy
my $conninfo = $blue->safe_psql('postgres', 'SHOW primary_conninfo');
$blue->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'");
$blue->reload;
wait_for('the stream to end', sub { $proxy->console('SHOW STANDBYS') !~ /^blue\|blue\|[^|]*\|streams\|/m });
refused('no stream', [ '"blue" streams through the proxy$' ]);
$blue->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = '$conninfo'");
$blue->reload;

# checksums
$blue->stop;
$red->stop;
system_or_bail('pg_checksums', '--disable', '-D', $red->data_dir);
$red->start;
$blue->start;
wait_for('blue to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^blue\|blue\|[^|]*\|streams\|/m });
refused('no checksums', ['data checksums are on$']);

# two primaries
$blue->stop;
my $twin = Walcrypt::Node->new('twin');
$red->backup('twin');
$twin->init_from_backup($red, 'twin');
$twin->start;
$section{twin} = { conninfo => $twin->connstr_for_proxy, keyset => 'none' };
$proxy->{nodes}{twin} = { %{ $section{twin} } };
$blue->start;
with({}, {}, sub { refused('two primaries', [ 'nodes "(?:red|twin)" and "(?:red|twin)" are both primaries$' ]); });
$_->stop for $blue, $twin, $red;
done_testing();
