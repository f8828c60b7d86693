# 266 once more, with the proxy under the address and undefined-behaviour sanitizers.
use strict;
use warnings;

BEGIN
{
	$ENV{WALCRYPT_PREFIX} .= '-asan';
	$ENV{ASAN_OPTIONS} = 'detect_leaks=1:abort_on_error=1';
	$ENV{UBSAN_OPTIONS} = 'halt_on_error=1:print_stacktrace=1';
}

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Wire;
use File::Basename;
do './' . dirname($0) . '/266_messages.pl' or die $@ || $!;
