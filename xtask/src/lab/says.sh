# says WHO STATUS WORDS COMMAND: the command ends with the status and says the words.
says() {
  who=$1 expected=$2 words=$3
  shift 3
  status=0
  "$@" >"$dir/output" 2>&1 </dev/null || status=$?
  cat "$dir/output"
  [ "$status" = "$expected" ] && grep -q "$words" "$dir/output" || { echo "FAILED: $who: status $status, not $expected, or no $words"; exit 1; }
  echo "$who says so"
}
run() { ctr run --rm --runtime $runtime $image "$1" true; }
