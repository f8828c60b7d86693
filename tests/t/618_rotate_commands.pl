# Goal: rotations between servers whose directories walcrypt-ctl does not see: every node is stopped, started, fenced and given its keys by the commands of its section,
# conf/nodes/walcrypt-keys being the other end. The clear primary follows as a clear standby, the encrypted one under its next relation key, and the
# rotation back takes the staged epoch into a directory that runs already. Slots go along, and are left nowhere. Then a failover by the same commands.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my $marker = 'marker-618-fernbedienung';
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green);
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n");
$red->start;
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 20000) i");
my $proxy = Walcrypt::Proxy->new(nodes => {
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, $_ eq 'red' ? (allow_clear => 'on') : (keyset => $_),
		control => "sh $tmp/control $_ %a", control_data => 'pg_controldata ' . $node{$_}->data_dir, fence => "sh $tmp/fence " . $node{$_}->data_dir } } keys %node });
$proxy->key_init('blue', '--system-identifier', $red->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'));
$proxy->key_init('green', '--system-identifier', $red->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()'));
$proxy->start;
append_to_file("$tmp/fence", "[ ! -e $tmp/away ] || { echo 'no route to host' >&2; exit 1; }\ncase \$2 in on) : >\$1/standby.signal;; off) rm -f \$1/standby.signal;; esac\n");
append_to_file("$tmp/where.$_", 'D=' . $node{$_}->data_dir . "\nL=" . $node{$_}->logfile . "\nPORT=" . $node{$_}->port . "\nSOCKETS=" . $node{$_}->host . "\nPROXY='" . $proxy->connstr($_) . "'\n") for keys %node;
append_to_file("$tmp/control", <<"END");
set -e
. $tmp/where.\$1
if [ \$2 = stop ]; then [ ! -e \$D/postmaster.pid ] || pg_ctl -D \$D -m fast -w stop >/dev/null; echo "\$1 stop" >>$tmp/did; exit; fi
[ ! -e \$D/postmaster.pid ] || exit 0
if [ ! -e \$D/PG_VERSION ]; then
	pg_basebackup -D \$D -d "\$PROXY" --checkpoint=fast --no-sync -R
	printf "port = %s\\nunix_socket_directories = '%s'\\nprimary_conninfo = '%s application_name=%s'\\n" \$PORT \$SOCKETS "\$PROXY" \$1 >>\$D/postgresql.auto.conf
fi
layer=; [ ! -e \$D/pg_cryptokeys ] || layer="$Walcrypt::ctl exec -D \$D --kek @{[$proxy->kek_uri]} --"
\$layer pg_ctl -D \$D -l \$L -w -o --cluster-name=\$1 start >/dev/null 2>&1
END
my ($bin) = $Walcrypt::ctl =~ m{(.*)/};
sub keys_command { my ($name) = @_; return "tar -C \"\$WALCRYPT_KEYSET\" -cf - . | PATH=$bin:\$PATH sh conf/nodes/walcrypt-keys %a " . $node{$name}->data_dir . ' ' . $proxy->kek_uri; }
my $writers = Walcrypt::Writers->new(2, @node{qw(red blue green)});
$writers->start;

sub rotate { return ctl_output('rotate', '--config', $proxy->conf, @_); }
sub arrived
{
	my ($to, $old, @result) = @_;
	my ($rc, $out, $err) = @result;
	is($rc, 0, "from $old to $to") or diag($out, $err);
	for my $name (keys %node) { $node{$name}->_update_pid(-e $node{$name}->data_dir . '/postmaster.pid' ? -1 : 0); }
	$writers->wait_for_commits(20, $to);
	my $lsn = $node{$to}->lsn('insert');
	ok($node{$old}->poll_query_until('postgres', "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '$lsn'"), "... $old follows $to");
	return $out;
}
# One that keeps no WAL yet: there is nothing that the target could lack.
sub slot_anew { my ($name) = @_; $node{$name}->safe_psql('postgres', "SELECT pg_drop_replication_slot('spare'); SELECT pg_create_physical_replication_slot('spare')"); return; }
sub slots { my ($name) = @_; return $node{$name}->safe_psql('postgres', "SELECT coalesce(string_agg(slot_name, ' ' ORDER BY slot_name), 'none') FROM pg_replication_slots"); }

# the move: blue is built when it is first started
my ($rc, $out, $err) = rotate('--to', 'blue', '--old', 'clear');
is($rc, 6, 'a primary that would not know whom to follow');
like($out, qr/FAIL +the primary_conninfo of "red" is set, for when it is a standby/, '... is told so');
$red->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $proxy->connstr('red') . " application_name=red'\n");
$red->reload;
$red->poll_query_until('postgres', "SELECT current_setting('primary_conninfo') <> ''");
$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('spare')");
arrived('blue', 'red', rotate('--to', 'blue', '--old', 'clear'));
is(slots('blue') . ', ' . slots('red'), 'spare, none', 'its slot is on the new primary, and no longer where it would keep WAL');

# the rotation: the old primary comes back under its next relation key
($rc, $out, $err) = rotate('--to', 'green', '--old', 'reencrypt');
is($rc, 6, 'without a command that changes its keys it cannot be re-encrypted');
like($out, qr/FAIL +its data directory is on this machine, or its section has keys/, '... which is said');
# red, a clear standby that streams, is not in the way
$proxy->{nodes}{$_}{keys} = keys_command($_) for qw(blue green);
$proxy->write_conf;
slot_anew('blue');
my %key = (first => relation_key($node{blue}->data_dir . '/pg_cryptokeys'));
$out = arrived('green', 'blue', rotate('--to', 'green', '--old', 'reencrypt'));
like($out, qr/keys before +relation key $key{first}, WAL epoch 1.*keys after +relation key [0-9a-f]{16}, WAL epoch 2/s, 'the report');
is(slots('green') . ', ' . slots('blue'), 'spare, none', 'the slot went on');
$key{second} = relation_key($node{blue}->data_dir . '/pg_cryptokeys');
isnt($key{second}, $key{first}, 'blue is under another relation key');
is($key{second}, relation_key($proxy->keystore . '/blue'), '... the keystore\'s of that name');
$key{green} = relation_key($node{green}->data_dir . '/pg_cryptokeys');

# at the other end: a walcrypt-ctl that tells no key is no key that is right already
mkdir "$tmp/bin";
append_to_file("$tmp/bin/walcrypt-ctl", "#!/bin/sh\nexit 1\n");
chmod 0755, "$tmp/bin/walcrypt-ctl";
my $piped = 'tar -C ' . $proxy->keystore . "/blue -cf - . | PATH=$tmp/bin:\$PATH sh conf/nodes/walcrypt-keys reencrypt " . $node{blue}->data_dir . ' site';
isnt(system("$piped 2>$tmp/piped"), 0, 'a key that cannot be told');
like(slurp_file("$tmp/piped"), qr/^walcrypt-keys: could not find out the relation key in /m, '... is said');

# and back, to a directory that runs: it takes the next epoch. The re-encryption is cut off once it is done, before that was known
unlink "$tmp/did";
append_to_file("$tmp/cut", '');
$proxy->{nodes}{green}{keys} = "{ " . keys_command('green') . "; } && { [ %a != reencrypt ] || ! rm $tmp/cut 2>/dev/null; }";
$proxy->write_conf;
slot_anew('green');
($rc, $out, $err) = rotate('--to', 'blue', '--old', 'reencrypt');
is($rc, 7, 'cut off when the old primary was re-encrypted');
like($err, qr/keys of node "green": command ended with exit status 1/, '... which is said') or diag($out, $err);
like(slurp_from("$tmp/did"), qr/^blue stop$/m, 'blue was started again, with its next epoch');
$out .= arrived('blue', 'green', rotate('--resume'));
like($out, qr/keys before +relation key $key{green}, WAL epoch 2.*keys after +relation key $key{second}, WAL epoch 3/s, 'the report');
is(page_epochs($node{blue}->data_dir . '/pg_wal')->{4}, '3', 'every WAL page of the new timeline is under the epoch that was staged');
isnt(relation_key($node{green}->data_dir . '/pg_cryptokeys'), $key{green}, 'green is under another relation key');
is($node{blue}->safe_psql('postgres', 'SELECT count(*) FROM t'), 20000, 'every row is there');

# a failover: fenced and kept down by its commands
my $there = $node{blue}->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$writers->stop;
$node{blue}->wait_for_catchup('green');
$node{blue}->kill9;
($rc, $out, $err) = ctl_output('failover', '--config', $proxy->conf, '--to', 'green', '--dry-run');
is($rc, 0, 'what a failover would do') or diag($out, $err);
like($out, qr/^Failover from "blue", which is lost, to "green":\n.*The plan:\n.*the lost primary is fenced.*the target is promoted/s, '... it tells');
is($node{green}->safe_psql('postgres', 'SELECT pg_is_in_recovery()') . (-e $node{blue}->data_dir . '/standby.signal' ? 'fenced' : '') . (-e $proxy->keystore . '/switchover.json' ? 'begun' : ''), 't', '... and does nothing');
append_to_file("$tmp/away", '');
($rc, $out, $err) = ctl_output('failover', '--config', $proxy->conf, '--to', 'green');
is($rc, 7, 'a lost primary whose machine is gone cannot be fenced') or diag($out, $err);
($rc, $out, $err) = ctl_output('failover', '--config', $proxy->conf, '--abort');
is($rc, 7, '... nor freed');
like($err, qr/no route to host.*HINT:  Where its machine is gone give --abort --yes, which leaves "blue" as it is/s, '... and it is said what to do');
($rc, $out, $err) = ctl_output('failover', '--config', $proxy->conf, '--abort', '--yes');
is($rc, 0, '... so that another failover can begin') or diag($out, $err);
unlink "$tmp/away";
($rc, $out, $err) = ctl_output('failover', '--config', $proxy->conf, '--to', 'green');
is($rc, 0, 'the failover') or diag($out, $err);
ok(-e $node{blue}->data_dir . '/standby.signal', '... the lost one is fenced');
is($node{green}->safe_psql('postgres', 'SELECT pg_is_in_recovery(), count(*) FROM t'), 'f|20000', '... green is the primary, with every row');
$writers->account($node{green}, only_lost_connections => 1);
for my $name (qw(red green)) { system_or_bail('pg_ctl', '-D', $node{$name}->data_dir, '-m', 'fast', '-w', 'stop'); $node{$name}->_update_pid(0); }
($rc, $out, $err) = ctl_output('verify', '-D', $node{green}->data_dir, '--kek', $proxy->kek_uri);
is($rc, 0, 'every page and WAL page of green is whole under its keys') or diag($out, $err);
is(join(' ', files_containing($marker, map { $node{$_}->data_dir } qw(blue green))), '', 'and none is clear');
done_testing();
