# --create-kek where a key is there already but cannot be had: the server denies it, fails, is silent, speaks nonsense. By no provider is
# anything written then, and the key is what it was. Which questions reach the server is written down.
use strict;
use warnings;
use Cwd ();
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Kmip;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/never357';
mkdir $tmp, 0700;
never_said(qr/root-of-/);
my $key = 'ab' x 32;
my $asked = "$tmp/asked";

# key init --create-kek fails, so, and asks nothing that matches
sub untouched
{
	my ($name, $uri, $status, $words, $writes, @more) = @_;
	unlink $asked;
	refused($status, $words, $name, qw(key init blue --create-kek --system-identifier 7000000000000000001 --config), kek_conf($tmp, $uri, @more));
	my $questions = -e $asked ? slurp_file($asked) : '';
	isnt($questions, '', "$name: it was asked");
	unlike($questions, $writes, "$name: ... to write nothing");
	return;
}

# Vault: a relay that answers GET of this path by itself and hands the rest on
my $bao = Walcrypt::Vault->new(name => 'never');
$bao->enable('old', 'secrets', 'kv', '-version=1');
$bao->enable('transit', 'secrets', 'transit');
$bao->cli('kv', 'put', 'secret/there', "key=$key");
$bao->cli('kv', 'put', '-mount=old', 'there', "key=$key");
$bao->cli(qw(write -f transit/keys/there));
sub between
{
	my ($path, $fault) = @_;
	my $listen = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die;
	my $pid = fork() // die;
	if ($pid == 0) {
		while (my $c = $listen->accept) {
			my $head = '';
			while (defined(my $l = <$c>)) { $head .= $l; last if $l =~ /^\r?\n$/; }
			my ($len) = $head =~ /^content-length: (\d+)/im;
			read($c, my $body, $len // 0);
			open(my $f, '>>', $asked) or die;
			print $f $head =~ /^([A-Z]+ \S+)/, "\n";
			close $f;
			if ($head =~ m{^GET /v1/\Q$path\E}) { ref $fault ? $fault->($c) : print $c $fault; }
			else {
				my $s = IO::Socket::INET->new(PeerAddr => $bao->host_port) or die;
				print $s $head =~ s/^(host|connection):.*\r\n//gimr =~ s/\r\n/\r\nHost: x\r\nConnection: close\r\n/r, $body;
				local $/;
				print $c scalar(<$s>);
			}
			close $c;
		}
		POSIX::_exit(0);
	}
	return ($pid, $listen->sockport);
}
sub answer { my ($status, $body, @headers) = @_; return "HTTP/1.1 $status\r\nContent-Length: " . length($body) . "\r\n" . join('', map { "$_\r\n" } @headers) . "Connection: close\r\n\r\n$body"; }

my @faults = (
	[ '403',       answer('403 No', '{"errors":["permission denied"]}'), 4, qr/denies the token access/ ],
	[ '400',       answer('400 Bad', '{"errors":["what?"]}'), 1, qr/It said: what\?/ ],
	[ '500',       answer('500 Oops', '{"errors":["storage is gone"]}'), 4, qr/answered with status 500/ ],
	[ 'sealed',    answer('503 No', '{"errors":["Vault is sealed"]}'), 4, qr/is sealed/ ],
	[ 'redirect',  answer('307 There', '', 'Location: http://127.0.0.1:1/'), 4, qr/sends the request elsewhere/ ],
	[ 'no JSON',   answer('200 OK', 'hello'), 1, qr/is not JSON/ ],
	[ 'empty',     answer('200 OK', '{}'), 1, qr/has no text member|is not a key of a transit engine/ ],
	[ 'cut off',   substr(answer('200 OK', '{"data":{"data":{"key":"ab"}}}'), 0, -9), 4, qr/could not reach|did not answer/ ],
	[ 'a reset',   sub { setsockopt($_[0], SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)) }, 4, qr/could not reach/ ],
	[ 'silence',   sub { sleep 30 }, 4, qr/did not answer in time/ ]);
for my $t ([ 'vault-kv', 'secret/there', 'secret/data/there' ], [ 'vault-kv', 'old/there', 'old/there' ], [ 'vault-transit', 'transit/there', 'transit/keys/there' ]) {
	my ($scheme, $path, $question) = @$t;
	for my $f (@faults) {
		my ($what, $fault, $status, $words) = @$f;
		# a wrong use of the URI, rather than a failure
		$status = 2 if $what eq 'empty' && $scheme eq 'vault-transit';
		my ($pid, $port) = between($question, $fault);
		untouched("$path, $what", $bao->uri($scheme, $path) =~ s/127\.0\.0\.1:\d+/127.0.0.1:$port/r, $status, $words, qr/^(POST|PUT|PATCH|DELETE) /m, 'timeout = 2500ms');
		kill('KILL', $pid);
		waitpid($pid, 0);
	}
}
is($bao->cli(qw(kv get -field=key secret/there)), $key, 'version 2: the secret is what it was');
is($bao->cli(qw(kv get -mount=old -field=key there)), $key, 'version 1, too');
like($bao->cli(qw(kv metadata get secret/there)), qr/^current_version +1$/m, '... and has one version');

# KMIP: Locate or what comes after it fails; 3 is Register
my $kmip = Walcrypt::Kmip->new(name => 'never');
for my $t ([ 'hangs up', 0x08, sub { }, 4, qr/closed the connection|could not reach/ ], [ 'half an answer', 0x08, sub { print { $_[0] } substr(Walcrypt::Kmip::answer(0x08, Walcrypt::Kmip::text(0x420094, 'u1')), 0, -8) }, 4, qr/closed the connection/ ],
	[ 'another answer', 0x08, sub { print { $_[0] } Walcrypt::Kmip::answer(0x0A, Walcrypt::Kmip::text(0x420094, 'u1')) }, 1, qr/answered another question/ ],
	[ 'no attributes', 0x0B, sub { }, 4, qr/closed the connection|could not reach/ ], [ 'silence', 0x08, sub { sleep 30 }, 4, qr/did not answer in time/ ]) {
	my ($what, $at, $code, $status, $words) = @$t;
	my $port = $kmip->broken(sub {
		my ($c) = @_;
		while (defined(my $operation = Walcrypt::Kmip::question($c))) {
			open(my $f, '>>', $asked) or die;
			printf $f "operation %d\n", $operation;
			close $f;
			if ($operation == $at) { $code->($c); return; }
			print $c $operation == 0x1E ? Walcrypt::Kmip::answer(0x1E, Walcrypt::Kmip::version(1, 3)) : Walcrypt::Kmip::answer($operation, Walcrypt::Kmip::text(0x420094, 'u1'));
		}
	});
	untouched("KMIP, $what", $kmip->uri('there', port => $port), $status, $words, qr/^operation 3$/m, 'timeout = 2500ms');
}

# a keeper
for my $t ([ 'error denied', 4, qr/denies the key/ ], [ 'error unavailable', 4, qr/cannot reach its keys/ ], [ 'error failed', 1, qr/the key keeper failed/ ], [ 'error unsupported', 1, qr/does not know the question/ ],
	[ 'ok', 1, qr/gave no cluster key/ ], [ 'nonsense', 1, qr/answer is none/ ]) {
	untouched("a keeper that says $t->[0]", "external:there:while read -r verb rest; do echo \$verb >>$asked; case \$verb in init) echo ok 1;; *) echo $t->[0];; esac; done", $t->[1], $t->[2], qr/create/);
}

# a file that cannot be read, or holds something else
for my $t ([ 'others may read', "$key\n", 0644, 6, qr/others may read or write it/ ], [ 'no key', "hello\n", 0600, 1, qr/gave no cluster key/ ], [ 'nothing', '', 0600, 1, qr/gave no cluster key/ ], [ 'half a key', substr($key, 0, 40), 0600, 1, qr/gave no cluster key/ ]) {
	my $file = put("$tmp/file", $t->[1], $t->[2]);
	refused($t->[3], $t->[4], "a file with $t->[0]", qw(key init blue --create-kek --system-identifier 7000000000000000001 --config), kek_conf($tmp, "file:$file"));
	is(slurp_file($file), $t->[1], '... is what it was');
}

# the control: where there is none, one is written
my ($pid, $port) = between('secret/data/absent', answer('404 None', '{"errors":[]}'));
unlink $asked;
ctl_output(qw(key init blue --create-kek --system-identifier 7000000000000000001 --config), kek_conf($tmp, $bao->uri('vault-kv', 'secret/absent') =~ s/127\.0\.0\.1:\d+/127.0.0.1:$port/r));
like(slurp_file($asked), qr/^POST \S+secret\/data\/absent$/m, 'the answer 404 lets it be made (the control)');
kill('KILL', $pid);
waitpid($pid, 0);

done_testing();
