# Keys from programs: a keeper that stays (external:) and a command, with walcrypt-ctl and in a proxy that is reloaded; which exit
# status each fault has. What the keeper's protocol allows and forbids: tests/unit/keeper_test.c.
use strict;
use warnings;
use Cwd ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/external';
mkdir $tmp, 0700;
my $sample = 'perl ' . Cwd::getcwd() . '/conf/external/keeper.pl';
my @identifier = qw(--system-identifier 7000000000000000001);

# the site: one keyset from a keeper, one from a command
my $keeper = "external:main:echo \$\$ >>$tmp/pids; exec $sample $tmp/keys";
kek_file("$tmp/kek");
my $conf = put("$tmp/w.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek kept]\nuri = $keeper\n[kek told]\nuri = command:sleep 0.2; cat $tmp/kek\n"
	  . "[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n[node blue]\nkeyset = blue\nkek = kept\n[node green]\nkeyset = green\nkek = told\n");
refused(1, qr/the key keeper has no key "main"\nHINT:  --create-kek makes it/, 'not there yet', qw(key init blue --config), $conf, @identifier);
like(ctl(qw(key init blue --create-kek --config), $conf, @identifier), qr/Made a new cluster key: external:main:/, 'made');
my @files = glob("$tmp/keys/*");
is_deeply(\@files, ["$tmp/keys/main"], 'the keeper has it, by its name');
my $key = slurp_file("$tmp/keys/main");
like($key, qr/^[0-9a-f]{64}\n$/, '... 64 digits');
ctl(qw(key init green --config), $conf, @identifier);
like(ctl(qw(key show blue --config), $conf), qr{^provider +external:main:.*keeper\.pl}m, 'key show names it');
is(slurp_file("$tmp/pids") =~ tr/\n//, 3, 'one process for each run of walcrypt-ctl that wanted the key, key show none');

# another key under that name, the keeper's own words, one that hangs
put("$tmp/keys/wrong", '0' x 63 . "1\n");
refused(5, qr/wrong cluster key/, "another key", qw(key verify blue --config), $conf, '--kek', "external:wrong:exec $sample $tmp/keys");
refused(4, qr/the key keeper has ended\nDETAIL:  It said: .*gone\/keeper: .*not found/, 'no such program', qw(key verify blue --config), $conf, '--kek', 'external:main:exec /gone/keeper');
refused(4, qr/the key keeper cannot reach its keys\nDETAIL:  It said: come back later/, 'one that cannot', qw(key verify blue --config), $conf,
	'--kek', 'external:main:read -r q; echo ok 1; read -r q; echo error unavailable come back later');
refused(2, qr/not of the form external:NAME:COMMAND/, 'no command', qw(key verify blue --config), $conf, '--kek', 'external:main');
my $hang = put("$tmp/hang.ini", slurp_file($conf) =~ s/^uri = external:.*$/uri = external:main:echo \$\$ >$tmp\/hung; exec sleep 600\ntimeout = 3s/mr);
refused(4, qr/the key keeper did not answer in time/, 'one that hangs', qw(key verify blue --config), $hang);
my ($hung) = slurp_file("$tmp/hung") =~ /(\d+)/;
wait_for('its end', sub { !kill(0, $hung) });
pass('... is killed');

# A proxy: the keeper stays with it over reloads, is started again when it died, and ends with it. Commands are waited for while the
# event loop runs.
{
	my $log = put("$tmp/proxy.log", '');    # there before it is looked at
	my $run   = put("$tmp/run.ini", slurp_file($conf) =~ s/^keystore/listen_port = @{[ PostgreSQL::Test::Cluster::get_free_port() ]}\nkeystore/mr);
	unlink "$tmp/pids";
	my $pid = fork() // die;
	if ($pid == 0) {
		open(STDERR, '>', $log);
		exec($Walcrypt::proxy, '-c', $run) or POSIX::_exit(1);
	}
	wait_for('the proxy', sub { slurp_file($log) =~ /walcrypt-proxy .*port/ });
	my $reload = sub {
		my ($n) = @_;
		kill('HUP', $pid);
		wait_for("reload $n", sub { my @done = slurp_file($log) =~ /reloaded; sessions|stays as it was/g; return @done >= $n; });
	};
	my ($first) = slurp_file("$tmp/pids") =~ /(\d+)/;
	ok(kill(0, $first), 'the keeper stays with the proxy');
	$reload->($_) for 1 .. 3;
	unlike(slurp_file($log), qr/did not end|stays as it was|ERROR/, 'three reloads with a command, which nobody else waits for');
	is(slurp_file("$tmp/pids") =~ tr/\n//, 1, '... and one keeper');
	kill('KILL', $first);
	$reload->(4);
	is(slurp_file("$tmp/pids") =~ tr/\n//, 2, 'a keeper that was killed is started again');
	my ($second) = slurp_file("$tmp/pids") =~ /(\d+)\n\z/;
	kill('TERM', $pid);
	waitpid($pid, 0);
	is($?, 0, 'the proxy ends');
	wait_for('the end of the keeper', sub { !kill(0, $second) });
	ok(1, '... and its keeper with it');
	print "# $_\n" for split(/\n/, slurp_file($log));
}

is(files_containing($key =~ s/\n//r, $tmp), 1, 'the key is in the keeper\'s file and nowhere else');
done_testing();
