# key alter and key move: the same keys under another cluster key, of one directory or a whole keystore, with servers running; killed
# at every system call, with every change of the disk failing, and with others reading and changing at the same time.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands ();
use Walcrypt::Strace;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/keyalter';
mkdir $tmp, 0700;
kek_file("$tmp/kek$_") for 1 .. 3;
my ($k1, $k2, $k3) = map { "file:$tmp/kek$_" } 1 .. 3;
open(my $f, '>', "$tmp/w.ini") or die;
print $f "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek one]\nuri = $k1\n[kek two]\nuri = $k2\n"
  . join("", map { "[node $_]\nkeyset = $_\nkek = one\n" } qw(red blue green));
close $f;
chmod 0600, "$tmp/w.ini";
my @conf = ('--config', "$tmp/w.ini");
my @sysid = qw(--system-identifier 7300000000000000001);
ctl(qw(key init), $_, @sysid, @conf) for qw(red blue green);

sub opens { my ($kek, @which) = @_; return (ctl_output('key', 'verify', @which, '--kek', $kek, @conf))[0] == 0; }
sub ids { my (@which) = @_; return join(' ', ctl(qw(key show), @which, @conf) =~ /^(?:relation key|WAL key epoch \d+) +(\w{16})/mg); }

sub refused { return Walcrypt::KeyCommands::refused(@_, @conf); }

# one keyset: by [kek] names, by URIs, as CFE does it
my $ids = ids('blue');
my $out = ctl(qw(key alter blue --new-kek two --dry-run), @conf);
like($out, qr/cluster key would be changed, from \S+kek1 to \S+kek2\.\nNothing was changed/, 'dry run');
ok(opens($k1, 'blue') && !opens($k2, 'blue'), '... changes nothing');
$out = ctl(qw(key alter blue --new-kek two), @conf);
like($out, qr/cluster key changed, from \S+kek1 to \S+kek2\.\n.*From its next start it needs .*\nKeep the old cluster key/s, 'key alter by names');
ok(opens($k2, 'blue') && !opens($k1, 'blue'), '... the new key opens it, the old one does not');
is(ids('blue'), $ids, '... to the same keys');
like(ctl(qw(key show blue), @conf), qr/^provider +\Q$k2\E$/m, '... and says where the key is from');
ctl(qw(key alter blue), '--kek', "command:cat $tmp/kek2", '--new-kek', "command:test -d %d && cat $tmp/kek1 | tee %d/kms.id >/dev/null && cat $tmp/kek1", @conf);
ok(opens($k1, 'blue') && ids('blue') eq $ids, 'the two commands of CFE');
ok(-f "$tmp/ks/blue/live/kms.id", '... the file that the new one left in its %d came along');
ok(!-e "$tmp/ks/blue/new" && !-e "$tmp/ks/blue/old", '... nothing else is left');
unlink "$tmp/ks/blue/live/kms.id";

# what is refused, with nothing changed
refused(2, qr/--new-kek is missing/, 'no new key', qw(key alter blue));
refused(2, qr/name one key directory/, 'no directory', qw(key alter --new-kek two));
refused(5, qr/wrong cluster key/, 'not the present key', qw(key alter blue --kek two --new-kek), $k3);
refused(6, qr/is the present one\nHINT:  .*key move/, 'the same key', qw(key alter blue --new-kek), $k1);
refused(4, qr/kek9.*\nHINT:  --create-kek makes it/, 'a new key that is not there', qw(key alter blue --new-kek), "file:$tmp/kek9");
refused(4, qr/exit status 3/, 'a new command that fails', qw(key alter blue --new-kek), 'command:exit 3');
refused(4, qr/exit status 3/, '... with its %d', qw(key alter blue --new-kek), 'command:true %d; exit 3');
refused(6, qr/holds 64 hexadecimal digits/, 'a key itself', qw(key alter blue --new-kek), 'command:echo ' . 'ab' x 32);
refused(2, qr/contradict/, '--all and a name', qw(key alter blue --all --new-kek two));
refused(2, qr/key commands without %d/, '--all and a command for each directory', qw(key alter --all --kek one --new-kek), "command:cat %d/x");
ok(opens($k1, 'blue') && !-e "$tmp/ks/blue/new", '... changes nothing');
$out = ctl(qw(key alter blue --create-kek --dry-run --new-kek), "file:$tmp/kek4", @conf);
ok($out =~ /would be made/ && !-e "$tmp/kek4", 'a dry run makes no key');
ctl(qw(key alter blue --create-kek --new-kek), "file:$tmp/kek4", @conf);
ok(opens("file:$tmp/kek4", 'blue'), '--create-kek makes the new one');
ctl(qw(key alter blue --kek), "file:$tmp/kek4", '--new-kek', $k1, @conf);

# the whole keystore
ctl(qw(key alter red --new-kek), $k3, @conf);
$out = ctl(qw(key alter --all --kek one --new-kek two), @conf);
like($out, qr{ks/red: left as it is, under cluster key}, '--all passes over other cluster keys');
ok(opens($k2, 'blue') && opens($k2, 'green') && opens($k3, 'red'), '... and changes all under this one');
refused(6, qr/no keyset is under cluster key/, '... again', qw(key alter --all --kek one --new-kek two));
ctl(qw(key alter red --kek), $k3, '--new-kek', $k2, @conf);
mkdir "$tmp/ks/red/old";
refused(6, qr/was cut off\nHINT:  .*key repair/, '--all with one that was cut off', qw(key alter --all --kek two --new-kek one));
ok(opens($k2, 'blue') && opens($k2, 'green'), '... changes none');
ctl(qw(key repair red), @conf);
ctl(qw(key alter --all --kek two --new-kek one), @conf);
ok(opens($k1, $_), "$_ is back") for qw(red blue green);

# the same key at another provider
my $vault = Walcrypt::Vault->new(name => 'dev321');
my $there = $vault->uri('vault-kv', 'secret/moved');
refused(6, qr/has another cluster key.*\nHINT:  .*key alter/, 'move to another key', qw(key move blue --new-kek two));
refused(1, qr/has no secret.*\nHINT:  --create-kek/, 'move to where there is none', qw(key move blue --new-kek), $there);
$out = ctl(qw(key move blue --create-kek --new-kek), $there, @conf);
like($out, qr/^Stored the cluster key: vault-kv.*cluster key moved, from \Q$k1\E to vault-kv/ms, 'key move stores it there');
ok(opens($k1, 'blue') && opens($there, 'blue'), '... one key at two places opens it');
like(ctl(qw(key show blue), @conf), qr/^provider +vault-kv/m, '... and it says the new one');
ctl(qw(key alter green --create-kek --new-kek), $vault->uri('vault-kv', 'secret/fresh'), @conf);
ok(opens($vault->uri('vault-kv', 'secret/fresh'), 'green') && !opens($k1, 'green'), 'key alter to a new key in OpenBao');
ctl(qw(key alter green --new-kek one --kek), $vault->uri('vault-kv', 'secret/fresh'), @conf);
refused(4, qr/could not reach/, 'a provider that is down', qw(key alter blue --new-kek), 'vault-kv+http://127.0.0.1:9/secret/x?token_file=' . $vault->token_file);
ok(opens($k1, 'blue') && !-e "$tmp/ks/blue/new", '... changes nothing');

# a running server does not notice; its next start needs the new key
my $node = Walcrypt::Node->new('main');
$node->init_encrypted($k1);
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i');
ctl('key', 'alter', '-D', $node->data_dir, '--kek', $k1, '--new-kek', $k2);
$node->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 1000); CHECKPOINT');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '2000', 'a running server goes on');
$node->stop;
ok(!$node->start(fail_ok => 1), 'it does not start with the old key');
like(slurp_from($node->logfile), qr/FATAL:  wrong cluster key for key directory/, '... and says why');
$node->use_layer($k2);
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '2000', '... but with the new one');
# cut off between the two renames: it starts all the same
my $keys = $node->data_dir . '/pg_cryptokeys';
$node->stop;
rename("$keys/live", "$keys/old");
system('cp', '-rp', "$keys/old", "$keys/new");
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '2000', 'a server starts after a change that was cut off');
like(ctl('key', 'repair', '-D', $node->data_dir), qr/put them in force/, '... while it runs the rest is done');
$node->restart;
$node->stop;

# killed at every system call
my $red = "$tmp/ks/red";
system('cp', '-rp', $red, "$tmp/red.before");
sub restore { system("rm -rf $red && cp -rp $tmp/red.before $red") == 0 or die; return; }
sub contents { my ($dir) = @_; return join("\0", map { s{^\Q$dir\E/}{}r => -d $_ ? '' : slurp_from($_) } sort glob("$dir/* $dir/*/*")); }

# run key alter under strace; the exit status, 137 when it was killed
sub traced
{
	my ($new, @strace) = @_;
	my ($o, $e) = ('', '');
	IPC::Run::run([ 'strace', '-qq', '-o', "$tmp/trace", @strace, $Walcrypt::ctl, qw(key alter red --kek), $k1, '--new-kek', $new, @conf ], '<', \undef, '>', \$o, '2>', \$e);
	return ($? & 127) ? 128 + ($? & 127) : $? >> 8, $e;
}

# What a command said when it failed; hundreds of them would fill the log.
sub quiet_output
{
	my ($out, @args) = @_;
	my $e = '';
	return IPC::Run::run([ $Walcrypt::ctl, @args, @conf ], '<', \undef, '>', $out, '2>', \$e) ? '' : $e || 'silence';
}
sub quiet { my $out; return quiet_output(\$out, @_); }

# Either key opens it, before a repair; one repair is enough; and then either key opens it, to the same keys.
my $red_ids = ids('red');
my %states;
sub invariant
{
	return '' if contents($red) eq contents("$tmp/red.before");    # the old key opens that: it is not touched yet
	my @state = grep { -e "$red/$_" } qw(live new old);
	$states{"@state"}++;
	return "neither key opens @state" if !grep { quiet(qw(key verify red --kek), $_) eq '' } $k1, $k2;
	my $did = '';
	my $e = quiet_output(\$did, qw(key repair red));
	return "repair of @state: $e" if $e ne '';
	return "repair of @state leaves new or old" if -e "$red/new" || -e "$red/old";
	my @which = grep { quiet(qw(key verify red --kek), $_) eq '' } $k1, $k2;
	return 'after the repair ' . scalar(@which) . " of both keys open @state" if @which != 1;
	return 'other keys' if ids('red') ne $red_ids;
	return "the repair says $did" if "@state" ne 'live' && $did =~ /nothing to do/;
	return '';
}

SKIP: {
	skip_without_strace(10);
	for my $how ($k2, "command:cat $tmp/kek2 # %d") {
		restore();
		my ($rc, $e) = traced($how, '-e', 'trace=all');
		is($rc, 0, "key alter under strace ($how)") or diag $e;
		my %calls;
		$calls{$_}++ for slurp_from("$tmp/trace") =~ /^(\w+)\(/mg;
		delete @calls{qw(execve exit_group)};
		my ($kills, $survived, @bad) = (0, 0);
		for my $call (sort keys %calls) {
			for my $n (1 .. $calls{$call}) {
				restore() if contents($red) ne contents("$tmp/red.before");
				my ($status) = traced($how, '-e', "trace=$call", '-e', "inject=$call:signal=KILL:when=$n");
				$status == 137 ? $kills++ : $survived++;
				my $what = invariant();
				push @bad, "$call $n: $what" if $what ne '';
			}
		}
		cmp_ok($kills, '>', 150, "killed at $kills system calls");
		cmp_ok($survived, '<', 10, "... $survived were not reached again");
		is(join("\n", @bad), '', '... always the old key or the new one opens it, and one repair is enough');
	}
	is(join(', ', sort keys %states), 'live, live new, live old, new old', 'every state was seen') or diag explain \%states;

	# every change of the disk failing once
	my ($failures, @bad) = (0);
	for my $call (qw(mkdir fsync rename unlinkat rmdir write fchmod flock)) {
		for my $n (1 .. 40) {
			restore();
			my ($status, $e) = traced($k2, '-e', "trace=$call", '-e', "inject=$call:error=" . ($call eq 'write' ? 'ENOSPC' : 'EIO') . ":when=$n");
			last if slurp_from("$tmp/trace") !~ /\(INJECTED\)/;
			$failures++;
			# what cannot be printed is no reason to undo the change
			push @bad, "$call $n: exit status $status" if $status == 0 || $status > 7;
			push @bad, "$call $n: says nothing" if $e !~ /ERROR:  could not/;
			my $what = invariant();
			push @bad, "$call $n: $what" if $what ne '';
		}
	}
	cmp_ok($failures, '>', 25, "$failures failing calls");
	is(join("\n", @bad), '', '... are said, and leave the old key or the new one');
}

# others at the same time: readers always find one of both, of two changes one wins
restore();
my $reader = fork() // die;
if ($reader == 0) {
	my $wrong = 0;
	until (-e "$tmp/stop") {
		my $e = quiet(qw(key show red));
		$wrong++, print "# reader: $e\n" if $e ne '';
	}
	POSIX::_exit($wrong > 0);
}
for (1 .. 10) {
	ctl(qw(key alter red --kek), $k1, '--new-kek', $k2, @conf);
	ctl(qw(key alter red --kek), $k2, '--new-kek', $k1, @conf);
}
open(my $stop, '>', "$tmp/stop") or die;
waitpid($reader, 0);
is($?, 0, 'readers are never disturbed by 20 changes');
my @two = map { my $e = ''; [ IPC::Run::start([ $Walcrypt::ctl, qw(key alter red --kek), $k1, '--new-kek', $_, @conf ], '<', \undef, '>', \my $o, '2>', \$e) ] } $k2, $k3;
my @status = sort map { $_->[0]->finish; $_->[0]->full_result(0) >> 8 } @two;
is("@status", '0 5', 'of two changes at once one wins, the other finds that the key is no longer the present one');
is((opens($k2, 'red') ? 1 : 0) + (opens($k3, 'red') ? 1 : 0), 1, '... one key opens it');
done_testing();
